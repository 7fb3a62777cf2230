"""The testing kit: an app on a real Postgres, crashed wherever you like. See `Bench`."""

from engine.crashpoints import CrashPoint
from processor.testing.bench import Bench, UnsettledError

__all__ = ["Bench", "CrashPoint", "UnsettledError"]
