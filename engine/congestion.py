"""When a partition has enough, and is to be paused (I10). Pure."""

from engine.settings import EngineSettings


def is_congested(settings: EngineSettings, *, was: bool, backlog: int, backlog_bytes: int, parked: int) -> bool:
    """Whether a partition should be paused (I10): on at a limit, off at half of it.

    A pause throws away what the client has fetched ahead, and a resume fetches it again: a partition that went back
    and forth at one threshold paused ten times a second.

    Args:
        settings: The limits.
        was: Whether it is paused for this now.
        backlog: Records of the partition that wait for room.
        backlog_bytes: Theirs and all other partitions' bytes; counts for those that have a backlog.
        parked: Rows of the partition at rest behind their keys.
    """
    share = 0.5 if was else 1.0
    return (
        backlog > settings.backlog_max * share
        or parked > settings.parked_max * share
        or (backlog > 0 and backlog_bytes > settings.in_flight_bytes_max * share)
    )
