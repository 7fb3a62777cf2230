"""Who may own a row: every claim there was, as rows are compared with them (I6)."""

from collections.abc import Iterable


class Claims:
    """Every claim there was, and which of them may have become a row's owner since the last look (I6)."""

    def __init__(self) -> None:
        self._all: dict[str, tuple[int, str | None]] = {}
        self._may_write: set[str] = set()
        self._since_look: set[str] = set()
        self._owners: dict[str, str | None] | None = None

    def saw(self, token: str, partition: int, owner: str | None) -> None:
        """A claim, as it was made or as it is stored."""
        if token and token not in self._all:
            self._all[token] = partition, owner
            self._may_write.add(token)
            self._since_look.add(token)

    def look(self) -> None:
        """A snapshot is about to be taken: claims made while it is read count for the next one as well."""
        self._since_look = set()

    def restored(self) -> None:
        """What is stored is of another time: the next look compares with nothing."""
        self._owners = None

    def check(self, current: set[str], rows: Iterable[tuple[str, int, str | None, str | None]]) -> None:
        """Compare owners of rows (ID, partition, owner, executor) with the claims, `current` being those stored now."""
        owners: dict[str, str | None] = {}
        for workflow, partition, owner, executor in rows:
            owners[workflow] = owner
            if owner is None:
                continue
            assert self._all.get(owner) == (partition, executor), (
                f"I6: {workflow} of {executor} has owner {owner}, which is {self._all.get(owner)}"
            )
            if self._owners is not None and self._owners.get(workflow) != owner:
                assert owner in self._may_write, f"I6: {workflow} came under {owner}, which was superseded before"
        self._owners, self._may_write = owners, current | self._since_look
