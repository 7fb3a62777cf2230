"""Whose fault a database error is: the weather's, the handler's, a record's, or ours (P25 to P27). Pure."""

from enum import Enum

import psycopg

CONFLICT_ATTEMPTS = 10
"""Times a user's transaction is run again at once after a serialization failure or deadlock (P26)."""


class Fault(Enum):
    """Who is to act."""

    WEATHER = "weather"
    """Nobody: back off, reconnect, send again. Never an attempt."""
    FENCED = "fenced"
    """Nobody: a partition or a row is no longer ours."""
    WENT_BACK = "went back"
    """Nobody: the database lost commits; everything in memory is abandoned (P4)."""
    RECORD = "record"
    """The record: it fails alone (P27)."""
    CONFLICT = "conflict"
    """A key of ours stands already: we are not where we thought (P27)."""
    BROKEN = "broken"
    """An operator or developer: our own statement is refused; halt visibly."""


def fault_of(error: BaseException) -> Fault:
    """Judge an error of one of *our* statements."""
    if not isinstance(error, psycopg.Error):
        return Fault.BROKEN
    state = error.sqlstate
    if state is None:
        return (
            Fault.WEATHER
            if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
            else Fault.RECORD
            if isinstance(error, psycopg.DataError)
            else Fault.BROKEN
        )
    if state in ("KP001", "KP002"):
        return Fault.FENCED
    if state == "KP003":
        return Fault.WENT_BACK
    if state == "23505":
        return Fault.CONFLICT
    if is_weather(state) or state[:2] in ("40", "55") or state in ("57014", "25P03", "25P04"):
        return Fault.WEATHER
    if state[:2] in ("22", "23", "54"):
        return Fault.RECORD
    return Fault.BROKEN


def comes_from_outside(error: BaseException) -> bool:
    """Whether the server, the network or the machine raised it. Anything else out of our own code is a bug of ours."""
    if isinstance(error, psycopg.Error):
        return error.sqlstate is not None or fault_of(error) is Fault.WEATHER
    return isinstance(error, OSError)


def is_weather(state: str | None) -> bool:
    """Connection lost, resources short, server going down or read-only: as true for a user's statement (P25)."""
    if state is None:
        return True
    return state[:2] in ("08", "53") or state in ("57P01", "57P02", "57P03", "25006")


def is_weather_error(error: BaseException) -> bool:
    """Whether an error out of a user's transaction is weather and not the handler's."""
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        # psycopg's word for a statement behind one that failed: the handler has kept that error to itself, and would again.
        return isinstance(error, psycopg.OperationalError) and not isinstance(error, psycopg.errors.PipelineAborted)
    return is_weather(error.sqlstate)


def is_conflict(error: BaseException) -> bool:
    """Whether a user's statement lost against another transaction and may simply run again (P26)."""
    if not isinstance(error, psycopg.Error) or error.sqlstate is None:
        return False
    return error.sqlstate[:2] == "40" or error.sqlstate in ("55P03", "57014", "25P03", "25P04")
