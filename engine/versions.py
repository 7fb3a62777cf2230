"""Which workflows without a source this process can run: of which function, version of its code, and object (P29).

    handler 'ship', version 'b', continues 'a'      rows of 'b' and of 'a'; whatever is taken of 'a' is of 'b' from then on
    handler 'Gate.open', objects 'eu' and 'us'      rows of either; those of 'asia' are for somebody else

A row that nobody can run waits, and is listed with the reason (engine/inspection.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.handlers import Handler


@dataclass(frozen=True, slots=True)
class Runnable:
    """Columns of what a process can run, one place for each combination.

    Attributes:
        names: `workflow_status.name`.
        versions: `application_version` of the rows.
        instances: `config_name` of the rows; '' for none.
        becomes: The version that a row has once it was taken.
    """

    names: Sequence[str] = field(default_factory=list[str])
    versions: Sequence[str] = field(default_factory=list[str])
    instances: Sequence[str] = field(default_factory=list[str])
    becomes: Sequence[str] = field(default_factory=list[str])


def runnable(handlers: Iterable[Handler]) -> Runnable:
    """What these handlers can run."""
    every = [
        (handler.name, version, instance, handler.version)
        for handler in handlers
        for version in dict.fromkeys((handler.version, *handler.continues))
        for instance in (("",) if handler.instances is None else handler.instances)
    ]
    return Runnable(*([row[column] for row in every] for column in range(4)))


def body_of_call(handler: Handler, instance: str | None) -> Callable[..., Any]:
    """The function of a call's arguments, or the method of an object; awaitable if it is async."""
    function = handler.function
    first = () if handler.instances is None else (handler.instances[instance or ""],)

    def body(call: tuple[Sequence[Any], Mapping[str, Any]]) -> Any:
        args, kwargs = call
        return function(*first, *args, **kwargs)

    return body
