"""What starts a workflow at times of day, and what it is given.

@app.workflow(on=Cron("0 3 * * *", timezone="Europe/Paris"))
def close_day(tick: Tick) -> None: ...
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from types import FunctionType
from typing import Protocol, TypeVar

from engine.cron import CatchUp, Cron
from engine.errors import ConfigurationError
from engine.starts import check_id
from engine.ticks import tick_id, trigger_id
from processor.codec import type_name
from processor.handlers import annotation_of
from processor.workflows import WorkflowFunction

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Tick:
    """One run of a schedule. The same whenever the workflow is run again.

    Attributes:
        scheduled_at: The time it is for: that of its ID. UTC.
        started_at: When its row was written, by Postgres's clock; later where it was made up. UTC.
    """

    scheduled_at: datetime
    started_at: datetime


class TickDecorator(Protocol):
    """Takes a function of a `Tick`, sync or async."""

    def __call__(self, fn: Callable[[Tick], R], /) -> WorkflowFunction[[Tick], R]:
        """The workflow. It can be called and started as well, with a tick of the caller's."""
        ...


def check_tick_handler(fn: FunctionType, cron: Cron, name: str) -> None:
    """Refuse a function that is not one of a tick, and a name that is none for a tick's ID."""
    what = f"workflow {fn.__qualname__}"
    parameters = list(inspect.signature(fn).parameters.values())
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not positional or len(required) > 1 or (required and required[0] is not positional[0]):
        raise ConfigurationError(f"{what}: a handler of {cron} takes one argument, `tick: Tick`")
    first = positional[0].name
    given = annotation_of(fn, first, what) if first in fn.__annotations__ else None
    if given is not Tick:
        shown = "not annotated" if given is None else type_name(given)
        raise ConfigurationError(f"{what}: its argument {first} is {shown}, {cron} has `Tick`")
    for workflow_id in (tick_id(name, 0), trigger_id(name, 0)):
        check_id(workflow_id)


def refuse_options_of_records(what: str, **given: bool) -> None:
    """Refuse options that a schedule has no use for: who gives them expects something of them."""
    for name, is_given in given.items():
        if is_given:
            raise ConfigurationError(
                f"{what}: {name}= is about the records of a topic, and a Cron has none.\n"
                f"  A run that fails ends in ERROR, after retry=; the next tick runs."
            )


__all__ = ["CatchUp", "Cron", "Tick", "TickDecorator", "check_tick_handler", "refuse_options_of_records"]
