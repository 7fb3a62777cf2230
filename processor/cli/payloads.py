"""`processor payloads`: which keys the stored payloads are sealed with, and sealing them anew under the key of today.

Keys are those of the settings (`payloads.keys`, `payloads.keys_dir`); none is shown.
"""

import argparse
import asyncio
import sys

from engine.inspection import connected
from engine.payloads import Payloads
from engine.resealing import check_rotation, keys_in_use, reseal
from engine.settings import EngineSettings
from processor.cli import DONE, FAILED, add_act
from processor.cli.actors import actor_of, add_actor_argument
from processor.cli.output import print_rows, say_done
from processor.loading import load_settings
from processor.wiring import engine_settings

HELP = "List the keys that payloads are sealed with, or seal all of them with the key of today"

_COLUMNS = ("table", "column", "key", "values", "configured")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.epilog = "Exit codes: 0 done; 1 values could not be opened, and were left as they are; 2 it could not begin."
    acts = parser.add_subparsers(title="acts", metavar="ACT", required=True, dest="act")
    listing = add_act(acts, "list", "how many values each key has sealed; a key that is not there may be taken away")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    rotated = add_act(
        acts,
        "rotate",
        "seal every value with `payloads.key` that is not, in batches; may be broken off and begun again",
    )
    rotated.add_argument(
        "--plain", action="store_true", help="instead, with `payloads.key` unset everywhere: store them readable again"
    )
    rotated.add_argument("--json", action="store_true", help="one JSON object")
    add_actor_argument(rotated)


def run(arguments: argparse.Namespace) -> int:
    """Do one of the acts."""
    settings = engine_settings(load_settings(arguments.config))
    return asyncio.run(_act(arguments, settings))


async def _act(arguments: argparse.Namespace, settings: EngineSettings) -> int:
    keys = settings.payload_keys
    payloads = Payloads(keys)
    if arguments.act == "rotate":
        check_rotation(payloads, plain=arguments.plain, asked="--plain")
    async with connected(settings) as connection:
        if arguments.act == "list":
            rows = [
                {
                    "table": each.table,
                    "column": each.column,
                    "key": each.key_id,
                    "values": each.values,
                    "configured": "readable" if each.key_id is None else "yes" if each.key_id in keys.keys else "NO",
                }
                for each in await keys_in_use(connection, settings.schema)
            ]
            print_rows(_COLUMNS, rows, as_json=arguments.json, nothing="no payloads are stored")
            return DONE
        done = await reseal(connection, settings.schema, payloads, actor=actor_of(arguments))
    text = f"{done.values} values {'opened' if arguments.plain else f'sealed with key {payloads.current!r}'}"
    key = None if arguments.plain else payloads.current
    say_done(text, as_json=arguments.json, values=done.values, key=key, unreadable=done.unreadable_count)
    for problem in done.unreadable:
        print(f"processor: {problem}", file=sys.stderr)
    if done.unreadable_count:
        print(f"processor: {done.unreadable_count} values cannot be opened and were left as they are", file=sys.stderr)
        return FAILED
    return DONE
