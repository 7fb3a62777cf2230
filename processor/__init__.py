"""Process Kafka records exactly once, with durable workflows on Postgres. Everything a user imports."""

from engine.acts import Acted, WorkflowActError
from engine.errors import (
    ClientClosedError,
    ConfigurationError,
    DeduplicatedError,
    EngineError,
    EngineStoppedError,
    NondeterminismError,
    NotYet,
    OtherThreadError,
    RacingStepsError,
    RecordedError,
    RecoveryExceededError,
    StepFailedError,
    StoreUnavailableError,
    StreamClosedError,
    UnfitResultError,
    WorkflowCancelledError,
    WorkflowConflictError,
    WorkflowNotFoundError,
)
from engine.handlers import UndecodableError
from engine.handles import StepInfo, WorkflowInfo
from engine.identity import Identity, NotAuthorizedError
from engine.listing import WorkflowFilter
from engine.outgoing import PublishError
from engine.own_thread import UnrecordedStepWarning
from engine.payloads import UnreadablePayloadError
from engine.states import WorkflowStatus
from engine.transaction import SyncTransaction, Transaction
from processor.app import App
from processor.client import Client
from processor.client_sync import SyncClient
from processor.codec import Codec, Json, Raw, Text
from processor.config import Settings
from processor.current import current_step, current_workflow
from processor.durable import deprecate_patch, patch, publish, sleep
from processor.formats import Avro, JsonSchema, Protobuf
from processor.handles import SyncWorkflowHandle, WorkflowHandle
from processor.loading import SettingsError, load_settings
from processor.messaging import (
    StreamReader,
    SyncStreamReader,
    close_stream,
    get_event,
    read_stream,
    recv,
    send,
    set_event,
    write_stream,
)
from processor.policies import (
    BlockKey,
    Breaker,
    DeadLetter,
    FailurePolicy,
    HaltPartition,
    Ordering,
    Retry,
    RetryAfterError,
    TerminalError,
)
from processor.queues import PlaceOptions, Queue
from processor.record_identity import FromHeaders
from processor.recorded import now, random, uuid4
from processor.records import RawRecord, Record
from processor.routes import Http, HttpRequest, IncomingRequest, acting_as
from processor.schedules import CatchUp, Cron, Tick
from processor.schema_registry import using_registry
from processor.triggers import Topic
from processor.workflows import WorkflowFunction, workflow_id

__all__ = [
    "Acted",
    "App",
    "Avro",
    "BlockKey",
    "Breaker",
    "CatchUp",
    "Client",
    "ClientClosedError",
    "Codec",
    "ConfigurationError",
    "Cron",
    "DeadLetter",
    "DeduplicatedError",
    "EngineError",
    "EngineStoppedError",
    "FailurePolicy",
    "FromHeaders",
    "HaltPartition",
    "Http",
    "HttpRequest",
    "Identity",
    "IncomingRequest",
    "Json",
    "JsonSchema",
    "NondeterminismError",
    "NotAuthorizedError",
    "NotYet",
    "Ordering",
    "OtherThreadError",
    "PlaceOptions",
    "Protobuf",
    "PublishError",
    "Queue",
    "RacingStepsError",
    "Raw",
    "RawRecord",
    "Record",
    "RecordedError",
    "RecoveryExceededError",
    "Retry",
    "RetryAfterError",
    "Settings",
    "SettingsError",
    "StepFailedError",
    "StepInfo",
    "StoreUnavailableError",
    "StreamClosedError",
    "StreamReader",
    "SyncClient",
    "SyncStreamReader",
    "SyncTransaction",
    "SyncWorkflowHandle",
    "TerminalError",
    "Text",
    "Tick",
    "Topic",
    "Transaction",
    "UndecodableError",
    "UnfitResultError",
    "UnreadablePayloadError",
    "UnrecordedStepWarning",
    "WorkflowActError",
    "WorkflowCancelledError",
    "WorkflowConflictError",
    "WorkflowFilter",
    "WorkflowFunction",
    "WorkflowHandle",
    "WorkflowInfo",
    "WorkflowNotFoundError",
    "WorkflowStatus",
    "acting_as",
    "close_stream",
    "current_step",
    "current_workflow",
    "deprecate_patch",
    "get_event",
    "load_settings",
    "now",
    "patch",
    "publish",
    "random",
    "read_stream",
    "recv",
    "send",
    "set_event",
    "sleep",
    "using_registry",
    "uuid4",
    "workflow_id",
    "write_stream",
]
