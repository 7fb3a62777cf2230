"""What the HTTP server tells about itself: an event beside the engine's, seen by the same observers."""

from dataclasses import dataclass

from engine.telemetry import Event


@dataclass(frozen=True, slots=True)
class HttpAnswered(Event):
    """A request was answered. `route`: as it is declared, never the path that was called; 'other' where there is none."""

    route: str
    method: str
    status: int
    duration_s: float
