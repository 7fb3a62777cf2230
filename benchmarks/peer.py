"""The other engines, each in an environment of its own, made once and kept in the cache of the user (~/.cache/onceflow).

dbos       its Python package, which has a Kafka consumer
restate    its server, a binary that comes by npm, and its Python package, which the server calls
"""

from pathlib import Path

from tests.fixtures.peers import Peer, PeerMissingError, npm_with, python_with

DBOS_VERSION = "3.4.0"
RESTATE_VERSION = "1.7.12"
RESTATE_SDK_VERSION = "1.3.0"


def _restate(place: Path) -> None:
    python_with(f"restate-sdk=={RESTATE_SDK_VERSION}", "hypercorn==0.18.0")(place)
    # Without scripts: one of them only reports the installation to somebody.
    npm_with("--ignore-scripts", f"@restatedev/restate-server@{RESTATE_VERSION}")(place)
    if not list(place.glob(RESTATE_SERVER)):
        raise OSError("npm has no restate-server for this system")


RESTATE_SERVER = "node_modules/@restatedev/restate-server-*/bin/restate-server"

DBOS = Peer(
    f"dbos-kafka-{DBOS_VERSION}",
    python_with(f"dbos=={DBOS_VERSION}", "confluent-kafka>=2.15"),
    lambda place: [str(place / "bin" / "python")],
)
RESTATE = Peer(
    f"restate-{RESTATE_VERSION}",
    _restate,
    lambda place: [str(place / "bin" / "python"), str(next(place.glob(RESTATE_SERVER)))],
)
"""Its command is two programs: the interpreter of its environment, and its server."""

__all__ = ["DBOS", "DBOS_VERSION", "RESTATE", "RESTATE_VERSION", "PeerMissingError"]
