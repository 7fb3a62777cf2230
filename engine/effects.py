"""Rows that come with a checkpoint, in its flush, if and only if it does: children, messages, events, streams (P31).

    add(run, function_id, effect), run.checkpoint(...)  ─▶  flush of its partition | group flush | a late run's hand-over
                                     … checkpoints …
                                     effects, one statement for each kind, joined to their checkpoints
                                     what endings at rest wait for; who is woken by all this

An effect's statement joins `operation_outputs`: the checkpoint was written by this very transaction, plain, so that it
is there if and only if its run still qualifies (P7). Effects need no barrier (P17): what their workflow did before is in
the same commit or in an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from engine.runner import Standing
from engine.signals import Signal
from engine.store import waiting, workflow_status
from engine.store.statement import Statement

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.flush import Work
    from engine.runner import Run

Named = tuple[str, Statement[Any]]
Rows = Sequence[tuple[Any, ...]]


class Effect(Protocol):
    """One row, or a few, of one checkpoint."""

    @property
    def touches(self) -> Sequence[str]:
        """Workflows whose rows have to be locked first, in the order of IDs: whoever rests there must see this."""
        ...

    @property
    def wakes(self) -> Sequence[Signal]:
        """Who may wait for this."""
        ...

    @classmethod
    def statement(cls, engine: Engine, placed: Sequence[Placed]) -> Statement[Any] | None:
        """All effects of this class in one statement; its rows go to `applied`. `None`: they have a place of their own."""
        ...

    @classmethod
    def applied(cls, engine: Engine, placed: Sequence[Placed], rows: Rows) -> None:
        """They are durable."""
        ...


class Placed(NamedTuple):
    """An effect with the run and the place of the checkpoint it belongs to."""

    run: Run
    function_id: int
    effect: Effect


class Extras:
    """What some works of a flush bring beside checkpoints and outcomes."""

    def __init__(self, engine: Engine, works: Iterable[Work]) -> None:
        self._engine = engine
        self._kinds: dict[type[Effect], list[Placed]] = {}
        self._resting: list[tuple[Run, Signal]] = []
        self._ended: list[Signal] = []
        for work in works:
            if work.run.effects:
                written = {checkpoint.function_id for checkpoint in work.checkpoints}
                for placed in work.run.effects:
                    if placed.function_id in written:
                        self._kinds.setdefault(type(placed.effect), []).append(placed)
            ending = work.ending
            if ending is not None and work.rests:
                self._resting += [(work.run, signal) for signal in ending.signals]
            elif ending is not None and ending.is_final and not work.run.home.has_source:
                # Of a record's workflow nobody looks for those who wait: they are polled for (engine/scan.py).
                self._ended.append(Signal("result", work.run.id))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing."""
        return not (self._kinds or self._resting or self._ended)

    def touches(self) -> list[str]:
        """Rows of others to be locked, by ID, beside those the flush writes."""
        touched = {target for placed in self._kinds.values() for each in placed for target in each.effect.touches}
        touched |= {signal.target for _, signal in self._resting}
        return sorted(touched)

    def of(self, kind: type[Effect]) -> Sequence[Placed]:
        """The effects of one class, in the order of their works."""
        return self._kinds.get(kind, ())

    def statements(self) -> list[Named]:
        """In the order they are sent, behind everything else of the flush."""
        made: list[Named] = []
        for kind, placed in self._kinds.items():
            if (statement := kind.statement(self._engine, placed)) is not None:
                made.append((_name(kind), statement))
        if self._resting:
            columns: dict[str, Any] = {
                "ids": [run.id for run, _ in self._resting],
                "kinds": [signal.kind for _, signal in self._resting],
                "targets": [signal.target for _, signal in self._resting],
                "names": [signal.name for _, signal in self._resting],
                "places": [signal.place for _, signal in self._resting],
            }
            made += [("waiting", waiting.rest(**columns)), ("answered", waiting.wake_answered(**columns))]
        if wakes := self._wakes():
            made.append(
                (
                    "woken",
                    waiting.wake(
                        kinds=[signal.kind for signal in wakes],
                        targets=[signal.target for signal in wakes],
                        names=[signal.name for signal in wakes],
                    ),
                )
            )
        return made

    def applied(self, read: Mapping[str, Rows]) -> None:
        """All of it is durable. `read`: what the statements returned; nothing where the reply was lost (P23, P24)."""
        for kind, placed in self._kinds.items():
            kind.applied(self._engine, placed, read.get(_name(kind), ()))
            for each in placed:
                if each.run.effects:
                    each.run.effects.remove(each)
        if wakes := self._wakes():
            self._engine.waits.signalled(wakes)
        if read.get("woken") or read.get("answered"):
            self._engine.hints.rows()

    def _wakes(self) -> list[Signal]:
        return self._ended + [
            signal for placed in self._kinds.values() for each in placed for signal in each.effect.wakes
        ]


def add(run: Run, function_id: int, effect: Effect) -> None:
    """Have rows come with a checkpoint that is handed over next. Loop only."""
    run.home.engine.has_extras = True
    if run.effects is None:
        run.effects = []
    run.effects.append(Placed(run, function_id, effect))


async def admit(run: Run, *, undurable_max: int) -> None:
    """Wait where as much of a workflow waits for its flush already (I10), or where nothing may begin just now (P1).

    Raises `Suspended` when nothing may begin any more.
    """
    is_ours = run.standing is Standing.ACTIVE and run.doom is None
    if run.recorded - run.durable > undurable_max or not is_ours or not run.home.engine.lease.is_valid():
        await run.ready()


def extras_of(engine: Engine, works: Sequence[Work]) -> Extras | None:
    """What works bring beside checkpoints and outcomes; `None`, nearly always: nothing."""
    if not engine.has_extras:
        return None
    extras = Extras(engine, works)
    return None if extras.is_empty else extras


def lock(ids: Sequence[str], others: Sequence[str]) -> Statement[Any]:
    """Lock all rows that a flush will write or look at, in one order, before it touches the first."""
    return workflow_status.lock(ids=[*ids, *others])


def _name(kind: type[Effect]) -> str:
    return f"effect {kind.__name__}"
