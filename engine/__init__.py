"""Durable execution on Postgres: the engine under `processor`. Knows no Kafka client and no pydantic."""

from engine.engine import Engine
from engine.settings import EngineSettings
from engine.snapshots import EngineSnapshot, SourceSnapshot

__all__ = ["Engine", "EngineSettings", "EngineSnapshot", "SourceSnapshot"]
