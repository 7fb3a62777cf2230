"""What all partitions of a group share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from consumers.cluster import Cluster
from consumers.handover import Place
from consumers.poller import Poller
from consumers.settings import GroupSettings
from consumers.starts import Starts
from engine.sources import Sources
from engine.telemetry import Telemetry

if TYPE_CHECKING:
    from consumers.partition import Partition


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Of one member of a group."""

    sources: Sources
    starts: Starts
    cluster: Cluster
    poller: Poller
    settings: GroupSettings
    telemetry: Telemetry
    failed: Callable[[BaseException], None]
    """Ends the member: a bug of ours, which would come again at every try."""
    attached: dict[int, "Partition"] = field(default_factory=dict[int, "Partition"])
    """By number of the attachment: where what the poll thread hands over goes to."""
    operator_pauses: set[Place] = field(default_factory=set[Place])
    """Partitions that somebody paused in this process; applied again at every attach (case 13)."""
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
