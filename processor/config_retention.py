"""Settings of retention. A section of `processor.config.Settings`."""

from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import Field

from processor.section import Duration, Section, duration_or

FOR_EVER: Final = "forever"
"""How people write that something is never deleted."""


KeepTime = Annotated[timedelta | Literal["forever"], *duration_or(FOR_EVER, "7d", "12h")]


class HandlerRetention(Section):
    """How long what one handler leaves behind is kept, where it is not as for all. Unset: as for all."""

    success: KeepTime | None = None
    error: KeepTime | None = None
    cancelled: KeepTime | None = None
    dead_letters: KeepTime | None = None


class RetentionSettings(Section):
    """How long finished workflows with all they recorded are kept, and dead letters that were decided."""

    success: KeepTime = timedelta(days=7)
    """Workflows in SUCCESS, since they ended. `forever`: never deleted."""

    error: KeepTime = timedelta(days=30)
    """Workflows in ERROR or MAX_RECOVERY_ATTEMPTS_EXCEEDED. One with an open dead letter stays, however old."""

    cancelled: KeepTime = timedelta(days=30)
    """Workflows in CANCELLED."""

    dead_letters: KeepTime = timedelta(days=90)
    """Dead letters, since they were retried or discarded. Open ones stay."""

    handlers: dict[str, HandlerRetention] = Field(default={})
    """Other times for single handlers, by name: `{audit: {success: forever}, clicks: {success: 1d}}`. A handler that
    no app has any more is kept for ever unless it is named here."""

    batch_max: int = Field(default=5_000, ge=100, le=50_000)
    """Workflows deleted in one commit. Fewer where that takes longer than 0.2 s."""

    vacuum_starved_after: Duration = timedelta(minutes=30)
    """How long an old transaction or a replication slot may keep deleted rows in the tables before it is reported."""
