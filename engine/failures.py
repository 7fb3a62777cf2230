"""Errors as rows: how a handler's exception is written, read back, and given to a workflow. Pure.

What a workflow sees the first time is what it sees in every replay: an exception that cannot be rebuilt from its
record is given as `RecordedError` at once. No pickle; only classes already imported are looked up by name.
"""

import json
import sys
from typing import Any, cast

from engine.errors import RecordedError, StepFailedError

MESSAGE_MAX = 10_000
"""Characters of an error's message that are stored."""


def type_name(error: BaseException) -> str:
    """`module:QualName`."""
    return f"{type(error).__module__}:{type(error).__qualname__}"


def encode_error(error: BaseException) -> str:
    """The text of an `error` column: type, message, and the arguments where JSON can hold them."""
    stored: dict[str, Any] = {"type": type_name(error), "message": _clean(str(error))[:MESSAGE_MAX]}
    try:
        arguments = json.dumps(list(error.args))
        if len(arguments) <= MESSAGE_MAX and "\\u0000" not in arguments:
            stored["args"] = json.loads(arguments)
    except (TypeError, ValueError):
        pass
    if error.__cause__ is not None:
        stored["cause"] = {
            "type": type_name(error.__cause__),
            "message": _clean(str(error.__cause__))[:MESSAGE_MAX],
        }
    return json.dumps(stored)


def decode_error(text: str) -> Exception:
    """The exception a record stands for."""
    try:
        stored: dict[str, Any] = json.loads(text)
        name, message = str(stored["type"]), str(stored.get("message", ""))
    except (ValueError, KeyError, TypeError):
        return RecordedError("unknown", text[:MESSAGE_MAX])
    error = _rebuilt(name, stored.get("args"), message)
    if isinstance(error, StepFailedError) and "cause" in stored:
        error.__cause__ = RecordedError(stored["cause"]["type"], stored["cause"]["message"])
    return error


def as_recorded(error: Exception) -> tuple[str, Exception]:
    """The record of an error, and the error to give to the workflow: itself if it can be rebuilt."""
    text = encode_error(error)
    rebuilt = decode_error(text)
    if type(rebuilt) is type(error) and str(rebuilt) == str(error):
        return text, error
    rebuilt.__cause__ = error
    return text, rebuilt


def summary(error: BaseException) -> str:
    """One line for people."""
    text = _clean(str(error)).strip().split("\n", 1)[0]
    return f"{type(error).__qualname__}: {text}"[:500] if text else type(error).__qualname__


def _rebuilt(name: str, arguments: Any, message: str) -> Exception:
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, Exception) and isinstance(arguments, list):
        try:
            error = found(*cast("list[Any]", arguments))
            if str(error) == message:
                return error
        except Exception:  # a constructor of the user's that wants something else: not rebuildable
            pass
    return RecordedError(name, message)


def _clean(text: str) -> str:
    """No NUL: Postgres text cannot hold it."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
