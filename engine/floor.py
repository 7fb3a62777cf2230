"""From which ID on the relay looks for rows: below it nothing can come any more (decision 0008). Pure.

A row may appear below one that is visible already, when a slower transaction commits. But a number is drawn only by a
transaction that has its xid: so whoever could still bring one below a row that was visible at one forming is older than the
next forming's transaction, and once every older transaction has ended, the formings since then have seen all of it.

    forming 1    sees rows up to 500                           candidate 500
    forming 2    has xid 9001                                  whoever may bring a row below 500 is older than 9001
    forming 7    all below 9001 have ended, and it took        floor 500
                 what it saw there

Without it, what a long-running reader keeps Postgres from cleaning up would be passed over again for every batch.
"""

from engine.store.outbox import FormedRow

LOOK_BELOW_S = 60.0
"""Now and then rows below are looked for all the same: of a program that inserts them in another way than ours."""


class Floor:
    """Of one claim. Times are seconds of a monotonic clock.

    Args:
        at: As the table has it.
    """

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self._candidate: int | None = None
        self._older_than: int | None = None
        """Transactions below this xid may still bring rows below the candidate."""
        self._before = at
        """Where it was when the batch that stands was formed: at or above the IDs of none of its rows."""
        self._below_at: float | None = None
        self._form_below = True

    def look_from(self, now: float) -> int:
        """Above which ID to look for work."""
        if self._below_at is None or now - self._below_at >= LOOK_BELOW_S:
            self._below_at = now
            self._form_below = True
        return 0 if self._form_below else self.at

    def form_from(self, now: float) -> int:
        """Above which ID to form a batch; a look below is done with that."""
        above = self.look_from(now)
        self._form_below = False
        return above

    def dissolved(self) -> None:
        """The batch that stands is formed anew: its rows are in none again."""
        self.at, self._candidate = self._before, None

    def formed(self, formed: FormedRow, *, has_refused: bool) -> None:
        """Take a forming into account.

        Args:
            formed: What it took and saw.
            has_refused: Whether it left rows of some topics where they are.
        """
        self._before = self.at
        if formed.taken_below_floor:
            self.at, self._candidate = 0, None  # whoever put them there may do so again
        if self._candidate is None:
            self._candidate, self._older_than = formed.last_id, None
        elif self._older_than is None:
            self._older_than = formed.xid
        elif formed.xmin >= self._older_than and not has_refused:
            cut_at = formed.last_id if formed.is_cut and formed.last_id is not None else self._candidate
            self.at = max(self.at, min(self._candidate, cut_at))
            self._candidate = None
