"""What decorators and topics are given beside a function, checked where it is given. Pure.

A type checker finds these mistakes; who has none would else meet them at the first record: `on_failure=BlockKey`
(the class) is no policy the engine knows, and a key that was to be blocked would go on.
"""

import inspect
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from engine.errors import ConfigurationError
from engine.policies import BlockKey, Breaker, DeadLetter, FailurePolicy, HaltPartition
from engine.retries import Retry

ISOLATIONS = ("read committed", "repeatable read", "serializable")

_WANTED: Mapping[str, tuple[tuple[type, ...], str]] = {
    "retry": ((Retry,), "Retry(...)"),
    "on_failure": ((DeadLetter, BlockKey, HaltPartition), "DeadLetter(), BlockKey() or HaltPartition()"),
    "breaker": ((Breaker, type(None)), "Breaker(...), or None for never"),
    "timeout": ((timedelta, type(None)), "a timedelta, or None for no limit"),
    "size": ((int,), "a number of records"),
    "name": ((str, type(None)), "text"),
    "version": ((str, type(None)), "text"),
    "continues": ((list, tuple, set, frozenset), "a list of versions"),
    "group": ((str, type(None)), "the name of a consumer group"),
    "renamed_from": ((str, type(None)), "the former name"),
    "id": ((str, type(None)), "text"),
    "priority": ((int,), "a whole number"),
    "deduplication_id": ((str, type(None)), "text"),
    "partition_key": ((str, type(None)), "text"),
    "delay": ((timedelta, type(None)), "a timedelta, or None for no delay"),
}
"""Types of an option, and what to give, in words."""

assert set(FailurePolicy.__args__) == set(_WANTED["on_failure"][0])


def check_options(what: str, **options: Any) -> None:
    """Refuse a value that is not what its option takes.

    Args:
        what: Whose options, as an error begins.
        **options: By name. Names without a rule are passed over.
    """
    for name, value in options.items():
        if name not in _WANTED:
            continue
        types, wanted = _WANTED[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ConfigurationError(f"{what}: {name}={_shown(value)}; it takes {wanted}")
        if value == "":
            raise ConfigurationError(f"{what}: {name}=''; it takes {wanted}, or leave it out")
    timeout = options.get("timeout")
    if timeout is not None and timeout <= timedelta(0):
        raise ConfigurationError(f"{what}: timeout={timeout}; it is longer than nothing, or None for no limit")
    isolation = options.get("isolation", ISOLATIONS[0])
    if isolation not in ISOLATIONS:
        raise ConfigurationError(f"{what}: isolation={isolation!r}; there are {', '.join(map(repr, ISOLATIONS))}")


def check_callable(what: str, **options: Any) -> None:
    """Refuse what is given as a function and is none. `None`: not given."""
    for name, value in options.items():
        if value is not None and not callable(value):
            raise ConfigurationError(f"{what}: {name}={_shown(value)}; it takes a function")


def check_takes_one(what: str, argument: str, **options: Any) -> None:
    """Refuse what is no function, and a function that cannot be called with the one argument that it will be given.

    One whose signature Python does not know (some written in C) is believed.
    """
    check_callable(what, **options)
    for name, value in options.items():
        if value is None:
            continue
        try:
            signature = inspect.signature(value)
        except (TypeError, ValueError):
            continue
        try:
            signature.bind(object())
        except TypeError:
            raise ConfigurationError(
                f"{what}: {name}= is called with one argument, {argument}; the function given takes {signature}"
            ) from None


def _shown(value: object) -> str:
    """A class by its name, with a hint at what was meant by it."""
    return f"{value.__name__}, the class" if isinstance(value, type) else repr(value)
