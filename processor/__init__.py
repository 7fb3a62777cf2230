"""Process Kafka records exactly once, with durable workflows on Postgres. Everything a user imports."""

from engine.errors import ConfigurationError, EngineError, NondeterminismError, RecordedError, StepFailedError
from engine.handlers import UndecodableError
from engine.transaction import SyncTransaction, Transaction
from processor.app import App
from processor.codec import Codec, Json, Raw, Text
from processor.config import Settings
from processor.current import current_step, current_workflow
from processor.loading import SettingsError, load_settings
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
from processor.records import RawRecord, Record
from processor.triggers import Topic

__all__ = [
    "App",
    "BlockKey",
    "Breaker",
    "Codec",
    "ConfigurationError",
    "DeadLetter",
    "EngineError",
    "FailurePolicy",
    "HaltPartition",
    "Json",
    "NondeterminismError",
    "Ordering",
    "Raw",
    "RawRecord",
    "Record",
    "RecordedError",
    "Retry",
    "RetryAfterError",
    "Settings",
    "SettingsError",
    "StepFailedError",
    "SyncTransaction",
    "TerminalError",
    "Text",
    "Topic",
    "Transaction",
    "UndecodableError",
    "current_step",
    "current_workflow",
    "load_settings",
]
