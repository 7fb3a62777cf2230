"""`processor dead-letters edit`: another payload for a record that was given up, checked by its handler's type, and a retry."""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from engine.dead_letters import opened, show
from engine.edits import edit
from engine.errors import ConfigurationError
from engine.payloads import Payloads
from engine.settings import EngineSettings
from processor.cli import DONE, MISTAKE
from processor.cli.actors import actor_of, add_actor_argument
from processor.cli.apps import load_app
from processor.cli.numbers import number_in
from processor.cli.output import payload
from processor.edits import check_of

EDITOR = "vi"
"""Where neither VISUAL nor EDITOR is set."""


def configure_edit(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("id", type=number_in("dead-letters list"), metavar="ID", help="as `list` shows it")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--value", metavar="TEXT", help="the payload")
    given.add_argument("--file", metavar="FILE", help="the payload's bytes; '-': standard input")
    given.add_argument("--tombstone", action="store_true", help="no payload")
    parser.add_argument(
        "--app", metavar="MODULE:app", help="whose handler's type checks it, and whose key orders it; unchecked without"
    )
    parser.add_argument(
        "--keep-steps", action="store_true", help="also where steps have succeeded: their results stay as they are"
    )
    parser.add_argument("--note", required=True, help="why; it is recorded")
    parser.add_argument("--dry-run", action="store_true", help="only check it, and show both")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_actor_argument(parser)


async def edit_one(arguments: argparse.Namespace, settings: EngineSettings, connection: Any) -> int:
    """Do it."""
    if not arguments.note.strip():
        raise ConfigurationError("--note is empty: say why it is changed; it is recorded")
    schema, payloads = settings.schema, Payloads(settings.payload_keys)
    letter = opened(await show(connection, schema, arguments.id), payloads)
    value = _given(arguments, letter.record_value)
    if value == letter.record_value:
        print("processor: the payload is what it was; nothing was changed (`retry` runs it again)", file=sys.stderr)
        return MISTAKE
    done = await edit(
        connection,
        schema,
        arguments.id,
        value,
        payloads=payloads,
        inputs_inline_max=settings.inputs_inline_max,
        note=arguments.note,
        actor=actor_of(arguments),
        check=None
        if arguments.app is None
        else check_of(load_app(arguments.app), letter.handler, unchecked="leave --app out"),
        keep_steps=arguments.keep_steps,
        dry_run=arguments.dry_run,
    )
    if arguments.json:
        shown: dict[str, Any] = {"id": arguments.id, "workflow": done.workflow_id, "done": not arguments.dry_run}
        shown |= {"before": payload(done.before), "after": payload(done.after), "steps": done.steps}
        print(json.dumps(shown, ensure_ascii=False))
        return DONE
    if arguments.dry_run:
        print(f"before: {payload(done.before)}\nafter:  {payload(done.after)}")
    print(f"{done.workflow_id} {'would be' if arguments.dry_run else 'is'} back to work with the new payload")
    return DONE


def _given(arguments: argparse.Namespace, before: bytes | None) -> bytes | None:
    if arguments.tombstone:
        return None
    if arguments.value is not None:
        return str(arguments.value).encode()
    if arguments.file == "-":
        return sys.stdin.buffer.read()
    if arguments.file is not None:
        try:
            return Path(arguments.file).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"--file {arguments.file}: {error.strerror}") from None
    return _edited(before or b"")


def _edited(before: bytes) -> bytes:
    """What the operator's editor made of it."""
    if not sys.stdin.isatty():
        raise ConfigurationError("there is no terminal to edit on: give --value, --file or --tombstone")
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or EDITOR)
    with tempfile.TemporaryDirectory(prefix="processor-") as directory:
        # 0o700, as the directory: payloads are the operator's to see alone.
        file = Path(directory) / "payload.json"
        file.write_bytes(before)
        try:
            ended = subprocess.run([*words, str(file)], check=False)
        except OSError as error:
            raise ConfigurationError(f"{words[0]}: cannot be started: {error.strerror}") from None
        if ended.returncode:
            raise ConfigurationError(f"{words[0]}: exit code {ended.returncode}; nothing was changed")
        after = file.read_bytes()
    # Editors end a file with a line's end.
    return after if before.endswith(b"\n") else after.removesuffix(b"\n")
