"""Errors as rows: how a handler's exception is written, read back, and given to a workflow. Pure.

What a workflow sees the first time is what it sees in every replay: an exception that cannot be rebuilt from its
record is given as `RecordedError` at once, and one whose fields JSON cannot hold as it would be rebuilt. No pickle; only classes already imported are looked up by name.
"""

import asyncio
import json
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from engine.crashpoints import Crash
from engine.errors import RecordedError, Suspended

T = TypeVar("T")

MESSAGE_MAX = 10_000
"""Characters of an error's message that are stored."""

NO_FAILURES = (Suspended, Crash, KeyboardInterrupt)
"""What passes through a user's code without being its failure: all else that it raises ends what it was raised in, also what
is no `Exception` (every panic of an extension in Rust, `pytest.fail`, `SystemExit`)."""

UNRECORDED = (*NO_FAILURES, asyncio.CancelledError, GeneratorExit)
"""What ends a step without being its error."""


def type_name(error: BaseException) -> str:
    """`module:QualName`."""
    return f"{type(error).__module__}:{type(error).__qualname__}"


def message_of(error: BaseException) -> str:
    """What an error says of itself; its `repr`, or nothing, where its own `__str__` raises."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001  # the user's: `"no order {id}".format(**self.args[0])`
        with suppress(Exception):
            return repr(error)
        return ""


def from_thread(call: Callable[[], T]) -> T:
    """Call a function of the user's in a thread whose future the loop waits for.

    A future cannot hold a `StopIteration` (of a `next(…)` that finds nothing, say): who waits for it would wait for ever. It is
    raised as a `RuntimeError`, as Python does where one leaves a coroutine (PEP 479); a `GeneratorExit` likewise.
    """
    try:
        return call()
    except (StopIteration, GeneratorExit) as error:
        raise RuntimeError(f"the function raised {type(error).__name__}") from error


def encode_error(error: BaseException) -> str:
    """The text of an `error` column: type, message, the arguments where JSON can hold them, and the cause likewise.

    `name` and `message` are what JavaScript knows of an error: DBOS's SDK raises one from them.
    """
    stored = _stored(error)
    if error.__cause__ is not None:
        stored["cause"] = _stored(error.__cause__)
    return json.dumps(stored)


def decode_error(text: str) -> Exception:
    """The exception a record stands for."""
    try:
        stored: dict[str, Any] = json.loads(text)
        error = _rebuilt(stored)
        if "cause" in stored:
            error.__cause__ = _rebuilt(stored["cause"])
    except (ValueError, KeyError, TypeError):
        return RecordedError("unknown", text[:MESSAGE_MAX])
    return error


def as_recorded(error: BaseException) -> tuple[str, Exception]:
    """The record of an error, and the error to give to the workflow: itself if a replay would give the same."""
    text = encode_error(error)
    rebuilt = decode_error(text)
    if not isinstance(error, Exception) or type(rebuilt) is not type(error) or not _has_same_fields(rebuilt, error):
        return text, rebuilt
    if type(rebuilt.__cause__) is not type(error.__cause__):
        error.__cause__ = rebuilt.__cause__
    return text, error


def summary(error: BaseException) -> str:
    """One line for people."""
    text = _clean(message_of(error)).strip().split("\n", 1)[0]
    return f"{type(error).__qualname__}: {text}"[:500] if text else type(error).__qualname__


def _stored(error: BaseException) -> dict[str, Any]:
    message = _clean(message_of(error))[:MESSAGE_MAX]
    stored: dict[str, Any] = {"type": type_name(error), "name": type(error).__name__, "message": message}
    try:
        arguments = json.dumps(list(error.args))
    except (TypeError, ValueError, RecursionError):
        return stored
    if len(arguments) <= MESSAGE_MAX and "\\u0000" not in arguments:
        stored["args"] = json.loads(arguments)
        _add_fields(stored, error)
    return stored


def _add_fields(stored: dict[str, Any], error: BaseException) -> None:
    """What of its fields JSON holds exactly, if its arguments do not bring them back."""
    rebuilt = _rebuilt(stored)
    if type(rebuilt) is not type(error) or _has_same_fields(rebuilt, error):
        return
    fields = {name: value for name, value in _fields(error).items() if _is_exact(value)}
    text = json.dumps(fields)
    if fields and len(text) <= MESSAGE_MAX and "\\u0000" not in text:
        stored["fields"] = json.loads(text)


def _fields(error: BaseException) -> dict[str, Any]:
    """Without its notes, which are for people."""
    return {name: value for name, value in vars(error).items() if name != "__notes__"}


def _has_same_fields(one: BaseException, other: BaseException) -> bool:
    """Whether nobody could tell them apart by a field."""
    ours, theirs = _fields(one), _fields(other)
    return ours.keys() == theirs.keys() and all(_is_same(ours[name], theirs[name]) for name in ours)


def _is_same(one: object, other: object) -> bool:
    return one is other or (_is_exact(one) and _is_exact(other) and json.dumps(one) == json.dumps(other))


def _is_exact(value: object) -> bool:
    """Whether JSON brings a value back as it is, in all its parts."""
    if value is None or type(value) in (str, bool, int):
        return True
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is list:
        return all(map(_is_exact, cast("list[object]", value)))
    if type(value) is dict:
        items = cast("dict[object, object]", value).items()
        return all(type(key) is str and _is_exact(part) for key, part in items)
    return False


def _rebuilt(stored: dict[str, Any]) -> Exception:
    name, message, arguments = str(stored["type"]), str(stored["message"]), stored.get("args")
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, Exception) and isinstance(arguments, list):
        try:
            error = found(*cast("list[Any]", arguments))
            vars(error).update(stored.get("fields", {}))
            if str(error) == message:
                return error
        except Exception:  # noqa: BLE001  # a constructor of the user's that wants something else
            return RecordedError(name, message)
    return RecordedError(name, message)


def _clean(text: str) -> str:
    """No NUL: Postgres text cannot hold it."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
