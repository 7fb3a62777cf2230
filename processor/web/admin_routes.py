"""Routes of the admin API's acts, and whom each lets in: read here what is open to whom, as in `application.py`."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

from processor.web.access import Access
from processor.web.examinations import LONGEST, Examinations
from processor.web.guard import Need
from processor.web.mass_acts import MassActs
from processor.web.moves import Moves
from processor.web.services import Services
from processor.web.workflow_acts import WorkflowActs

WORKFLOW = "/admin/workflows/{workflow_id:path}"
PARTITION = "/admin/partitions/{group}/{partition}"

Of = Callable[[Access], Need]
"""What lets in whoever has at least this access."""


class Add(Protocol):
    """`Site._add`: the only way that a route comes to be."""

    def __call__(
        self, method: str, path: str, endpoint: Callable[..., Any], *, need: Need, longest: timedelta = timedelta(0)
    ) -> Any:
        """Add a route."""
        ...


def add_workflow_acts(add: Add, of: Of, acts: WorkflowActs, moves: Moves) -> None:
    """What puts workflows right, and moves partitions."""
    viewer, operator, administrator = (of(each) for each in Access)
    add("GET", "/admin/versions", acts.versions, need=viewer)
    add("POST", f"{WORKFLOW}/resume", acts.resume, need=operator)
    add("POST", f"{WORKFLOW}/restart", acts.restart, need=operator)
    add("POST", f"{WORKFLOW}/fork", acts.fork, need=operator)
    add("POST", f"{WORKFLOW}/delete", acts.delete, need=administrator)
    add("POST", f"{PARTITION}/seek", moves.seek, need=administrator)
    add("POST", f"{PARTITION}/cancel", moves.cancel, need=administrator)


def add_services(add: Add, of: Of, services: Services) -> None:
    """What runs beside workflows."""
    viewer, operator, administrator = (of(each) for each in Access)
    add("GET", "/admin/queues", services.queues, need=viewer)
    add("POST", "/admin/queues/{queue}/pause", services.pause_queue, need=operator)
    add("POST", "/admin/queues/{queue}/resume", services.resume_queue, need=operator)
    add("GET", "/admin/schedules", services.schedules, need=viewer)
    add("POST", "/admin/schedules/{name}/pause", services.pause_schedule, need=operator)
    add("POST", "/admin/schedules/{name}/resume", services.resume_schedule, need=operator)
    add("POST", "/admin/schedules/{name}/trigger", services.trigger, need=operator)
    add("POST", "/admin/schedules/{name}/backfill", services.backfill, need=operator)
    add("GET", "/admin/retention", services.retention, need=viewer)
    add("GET", "/admin/retention/due", services.due, need=operator)
    add("POST", "/admin/retention/pause", services.pause_retention, need=operator)
    add("POST", "/admin/retention/resume", services.resume_retention, need=administrator)
    add("POST", "/admin/retention/run", services.delete_due, need=administrator)
    add("GET", "/admin/outbox", services.relay, need=viewer)
    add("GET", "/admin/outbox/events", services.events, need=viewer)
    add("POST", "/admin/outbox/resume", services.resume_relay, need=administrator)
    add("POST", "/admin/outbox/discard", services.discard_events, need=administrator)
    add("POST", "/admin/outbox/rename", services.rename_outbox, need=administrator)


def add_mass_acts(add: Add, of: Of, acts: MassActs) -> None:
    """What is done to many, who lets one do it lets many; and another payload for a dead letter."""
    _, operator, administrator = (of(each) for each in Access)
    add("POST", "/admin/workflows/cancel", acts.cancel, need=operator)
    add("POST", "/admin/workflows/resume", acts.resume, need=operator)
    add("POST", "/admin/workflows/restart", acts.restart, need=operator)
    add("POST", "/admin/workflows/delete", acts.delete, need=administrator)
    add("POST", "/admin/dead-letters/retry", acts.retry, need=operator)
    add("POST", "/admin/dead-letters/discard", acts.discard, need=administrator)
    add("POST", "/admin/dead-letters/{dead_letter_id}/edit", acts.edit, need=administrator)


def add_examinations(add: Add, of: Of, examinations: Examinations) -> None:
    """What looks at everything."""
    viewer, operator, administrator = (of(each) for each in Access)
    add("GET", "/admin/executors", examinations.executors, need=viewer)
    add("POST", "/admin/executors/{executor_id}/end", examinations.end, need=operator)
    add("GET", "/admin/lag", examinations.lag, need=viewer)
    add("GET", "/admin/doctor", examinations.doctor, need=operator)
    add("POST", "/admin/verify", examinations.verify, need=operator, longest=LONGEST)
    add("GET", "/admin/payloads", examinations.keys, need=operator, longest=LONGEST)
    add("POST", "/admin/payloads/rotate", examinations.rotate, need=administrator, longest=LONGEST)


__all__ = ["add_examinations", "add_mass_acts", "add_services", "add_workflow_acts"]
