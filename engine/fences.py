"""What this process has seen of the database, and hands to the fences in SQL (P4). Pure."""


class DatabaseFence:
    """The newest timeline and WAL position seen: the database never goes back under a live process (P4)."""

    def __init__(self) -> None:
        self.timeline = ""
        self.lsn = "0/0"
        self._position = 0

    def saw(self, lsn: str) -> None:
        """Note a WAL position; the highest counts."""
        position = _position(lsn)
        if position > self._position:
            self._position, self.lsn = position, lsn

    def seen(self) -> tuple[str, int]:
        """Timeline and position now: what a statement that is sent from now on must not be behind."""
        return self.timeline, self._position

    @staticmethod
    def is_behind(timeline: str, lsn: str, seen: tuple[str, int]) -> bool:
        """Whether a reading is older than what was seen before its statement was sent.

        Compared with what is seen when its reply is looked at, a reading would be called old whose statement ran
        beside a commit that was heard of first.
        """
        before, position = seen
        return bool(before) and (timeline != before or _position(lsn) < position)

    def reset(self) -> None:
        """After registering anew: what was seen belongs to another history."""
        self.timeline, self.lsn, self._position = "", "0/0", 0


def _position(lsn: str) -> int:
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) | int(low, 16)
