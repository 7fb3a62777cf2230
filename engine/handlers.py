"""What the engine knows of the user's functions: handlers, steps, transactions. Pure.

`processor` builds these from decorators; the engine never sees a decorator, a pydantic model or a codec by name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any, Protocol

from engine.cron import Cron
from engine.identity import Origin
from engine.policies import Breaker, DeadLetter, FailurePolicy
from engine.records import Record
from engine.retries import NEVER, Retry


class HandlerKind(Enum):
    """How a handler's effects become durable."""

    JOURNALED = "journaled"
    """A workflow of steps: `function(argument)`."""
    TRANSACTION = "transaction"
    """Fused: the whole handler is one transaction, `function(tx, argument)`, many records a commit."""
    BATCH = "batch"
    """Fused: many records in one call, `function(tx, [argument, ...])`, in offset order."""


class Decision(Enum):
    """Why a record has no workflow."""

    FILTERED = "filtered"
    TOMBSTONE = "tombstone"


class UndecodableError(Exception):
    """A record's bytes are not what its topic says. The record becomes a dead letter with its raw bytes, at once."""

    reason = "undecodable"
    """Of its dead letter."""


class UnauthorizedRecordError(UndecodableError):
    """A record does not say credibly whose it is, or whose it is may not start the workflow: a dead letter, not looked into."""

    reason = "unauthorized"


REFUSED = frozenset({UndecodableError.reason, UnauthorizedRecordError.reason})
"""Reasons of dead letters that were never decoded: no policy of the handler's is asked about them."""


class Format(Protocol):
    """Bytes of a record to the handler's argument. What `processor`'s codecs are to the engine."""

    embeds_json: bool
    """Whether a decodable payload is UTF-8 JSON text, stored as it stands in `inputs`; otherwise base64."""

    def decode(self, record: Record) -> Any:
        """The handler's argument. On the loop: must not wait.

        Raises:
            UndecodableError: The bytes are no such event; the record is a dead letter. Any other exception counts as one.
            NotYet: It cannot be said yet: the partition waits.
        """
        ...


class Arguments(Protocol):
    """Inputs of a workflow that no record starts to what its function is called with."""

    def decode(self, inputs: str) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Positional and keyword arguments. Raises `ValueError` if the function does not take them."""
        ...


def _every_record(record: Record) -> Decision | None:
    del record
    return None


def record_key(record: Record, argument: Any) -> bytes | None:
    """Ordered by the record's own key."""
    del argument
    return record.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A registered workflow function.

    Attributes:
        name: `workflow_status.name`; unique in an app.
        kind: Journaled, transaction or batch.
        function: The user's function, undecorated.
        is_async: Whether it is a coroutine function; others run in threads.
        format: Decodes a record.
        encode: The result as JSON text. Raises `TypeError` or `ValueError` if it cannot.
        ordering_key: `(record, argument)` to the bytes that order it; `None`: unordered. Ignored under `ordered_by_partition`.
        ordered_by_partition: `Ordering.PARTITION`.
        orders_by_argument: Whether `ordering_key` looks at the argument (`order_by=`); otherwise it gets `None` there.
        decide: Before decoding: why this record has no workflow, or `None`. An exception is a failure of the record.
        filters: Whether `decide` is asked about records that have a value; about tombstones it always is.
        retry: The workflow's own policy (P28).
        on_failure: After the last attempt.
        breaker: `None`: off.
        batch_max: Most records in one call (BATCH) or one commit (TRANSACTION).
        persist_first: Give the record its row before its first step (P8).
        stored_headers: Names of the headers that are stored and shown to the handler.
        version: Fingerprint of the code, `workflow_status.application_version`.
        continues: Earlier versions whose workflows this code goes on with.
        class_name, instances: Of a method: `workflow_status.class_name`, and the objects it can be called on by name
            (`config_name`); `instances` is `None` of a function.
        arguments: Of the function, where it can be started without a record.
        cron: When it is started, with the tick's times as its argument; `None`: no schedule starts it.
        is_flow: Whether its argument is an `Execution`, whose options hold for its steps.
        origin: Whose a record is, by its stored headers; never raises. `None`: records are nobody's.
    """

    name: str
    kind: HandlerKind
    function: Callable[..., Any]
    is_async: bool
    format: Format
    encode: Callable[[Any], str]
    ordering_key: Callable[[Record, Any], bytes | None]
    ordered_by_partition: bool = False
    orders_by_argument: bool = False
    decide: Callable[[Record], Decision | None] = _every_record
    filters: bool = True
    retry: Retry = NEVER
    on_failure: FailurePolicy = field(default_factory=DeadLetter)
    breaker: Breaker | None = field(default_factory=Breaker)
    batch_max: int = 500
    persist_first: bool = False
    stored_headers: frozenset[str] = frozenset()
    version: str = ""
    continues: Sequence[str] = ()
    class_name: str | None = None
    instances: Mapping[str, Any] | None = None
    arguments: Arguments | None = None
    cron: Cron | None = None
    is_flow: bool = False
    origin: Callable[[Record], Origin] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A registered step: what is recorded is its final value or its final error.

    Attributes:
        name: In the history.
        function: The user's function, undecorated.
        is_async: Whether it is a coroutine function.
        record: The result as JSON text, and as every replay has it: what the workflow is given. Raises `TypeError` for what has
            no such text.
        decode: That text back to the result.
        retry: Tries within one checkpoint.
        timeout: Longest one try may take (async steps are cancelled, sync ones abandoned to their thread).
    """

    name: str
    function: Callable[..., Any]
    is_async: bool
    record: Callable[[Any], tuple[str, Any]]
    decode: Callable[[str], Any]
    retry: Retry = NEVER
    timeout: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionStep:
    """A registered transactional step: `function(tx, *args)`, its writes and its record are one commit (I5, P20).

    Attributes:
        isolation: 'read committed', 'repeatable read' or 'serializable'.
        read_only: Open the transaction READ ONLY: for the checkpoint's sake it is then a transaction of its own.
        conflict_attempts: Times a serialization failure or deadlock runs it again at once; not attempts.
    """

    name: str
    function: Callable[..., Any]
    is_async: bool
    record: Callable[[Any], tuple[str, Any]]
    decode: Callable[[str], Any]
    isolation: str = "read committed"
    read_only: bool = False
    conflict_attempts: int = 10
