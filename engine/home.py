"""Where a run belongs: who starts it, hears of its end, and brings what it has done to the database.

    Inbox   of a partition: in order of its keys, under the fence of its claim                     engine/inbox.py
    Desk    of the commons: workflows without a source, each under the fence of its own row        engine/commons.py

The runner, checkpoints, transactional steps and suspects know no more of a run's home than this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from engine.ids import OwnerToken

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.handlers import Handler
    from engine.runner import Ending, Run


class Home(Protocol):
    """Two real sides; everything is called on the loop.

    Attributes:
        engine, loop: Whose runs these are.
        handler, body: What they run; `body` takes the run's argument.
        token, id_prefix: Owner, and what stands before the offset in the IDs of runs that have one.
        has_source: Whether its runs are of records.
        has_place: Whether its runs have places of a queue.
        is_open: Whether anything may still start here.
        seal: What is of users to its column's text; `None`: it is stored as it is (decision 0012).
        submit: Have the committer look at a run.
    """

    @property
    def engine(self) -> Engine: ...  # noqa: D102  # above, as the next ones
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...  # noqa: D102
    @property
    def handler(self) -> Handler: ...  # noqa: D102
    @property
    def body(self) -> Callable[..., Any]: ...  # noqa: D102
    @property
    def token(self) -> OwnerToken: ...  # noqa: D102
    @property
    def id_prefix(self) -> str: ...  # noqa: D102
    @property
    def has_source(self) -> bool: ...  # noqa: D102
    @property
    def has_place(self) -> bool: ...  # noqa: D102
    @property
    def is_open(self) -> bool: ...  # noqa: D102
    @property
    def seal(self) -> Callable[[str], str] | None: ...  # noqa: D102
    @property
    def submit(self) -> Callable[[Run], None]: ...  # noqa: D102

    def begin(self, run: Run) -> None:
        """Run its code, whatever else there is: a suspect's turn has come."""
        ...

    def resume(self, run: Run) -> None:
        """Start a run that waited for a suspect."""
        ...

    def ended(self, run: Run, ending: Ending | None) -> None:
        """A run's code has ended, and every step it called; `None`: it was suspended."""
        ...

    def persisted(self, run: Run) -> None:
        """A run's first row is durable."""
        ...

    def finished(self, run: Run) -> None:
        """A run's ending is durable."""
        ...

    def refuse(self, run: Run, reason: str) -> None:
        """A run's row is no longer PENDING under its owner: it begins nothing more, and writes nothing (P7)."""
        ...

    def fail(self, run: Run, error: BaseException, reason: str = "unstorable") -> None:
        """What a run has done cannot be written as it is: it fails alone (P27)."""
        ...
