"""Durable execution on Postgres: the engine under `processor`. Knows no Kafka client and no pydantic."""

from engine.engine import Engine, EngineSnapshot, SourceSnapshot
from engine.settings import EngineSettings

__all__ = ["Engine", "EngineSettings", "EngineSnapshot", "SourceSnapshot"]
