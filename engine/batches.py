"""The relay's half in Postgres: its claim, and batches of committed rows, each numbered once (I9; decision 0008).

    claim ─▶ stands ─▶ next ─▶ next ─▶ …           each `next` is one commit, one round trip:
                         │                         fence ─ delete the rows of the last ─ take the next ─ read them
                         └─▶ anew                  without what Kafka refuses; nothing was published

What of it is in Kafka, only Kafka knows: `consumers.relay` asks it at every opening and after every doubt.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from engine.errors import EngineError
from engine.floor import Floor
from engine.ids import ExecutorId
from engine.outbox import CHANNEL
from engine.store import executor, outbox
from engine.store.outbox import FormedRow, OutboxRow, StandingRow
from engine.store.statement import Statement, send

if TYPE_CHECKING:
    from engine.engine import Engine

BEAT_S = 10.0
"""How often the owner says that it gets on, if it has nothing else to write."""

STUCK_S = 60.0
"""An owner whose beat stood still for so long of the observer's clock has lost its claim, though its executor lives."""


class RelayLostError(EngineError):
    """The relay is another executor's, or its table is not where this one left it: nothing was written.

    Whoever has the claim reads what stands, and asks Kafka.
    """


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are published together. `token` says in Kafka that it was this one."""

    number: int
    token: str
    rows: Sequence[OutboxRow]


class Batches:
    """The claim of one executor on the relay, and what it makes of it.

    Args:
        engine: Whose executor claims.
        rows_max: Most rows of a batch.
        bytes_max: Most bytes, unless one row alone has more.
    """

    def __init__(self, engine: Engine, *, rows_max: int, bytes_max: int) -> None:
        self._engine = engine
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._claimed_as = ExecutorId("")
        self._floor = Floor()
        self._beaten_at = 0.0
        self._observed: tuple[int, int, float] = (-1, -1, 0.0)
        """Epoch and beat of another's claim, and since when they stand."""
        self._stands: StandingRow | None = None

    @property
    def stands(self) -> StandingRow:
        """What stood when it was last looked at, under our claim."""
        assert self._stands is not None, "claimed"
        return self._stands

    @property
    def is_claimed(self) -> bool:
        """Whether the claim is ours, as far as this process knows."""
        return self._stands is not None and self._engine.is_alive_as(self._claimed_as)

    # -- the claim --

    async def claim(self) -> bool:
        """Take the claim from nobody, from the dead, or from one that is stuck. False: it has a live owner."""
        engine, schema = self._engine, self._engine.settings.schema
        executor_id = engine.executor_id
        async with engine.pool.connection() as connection:
            # First without a lock: whoever relays writes this row again and again.
            found = await (await send(connection, schema, outbox.standing())).fetchone()
            is_stuck = found is not None and self._is_stuck(found)
            if found is not None and not (found.is_gone or found.executor_id == executor_id or is_stuck):
                return False
            epoch, beat, _ = self._observed if is_stuck else (-1, -1, 0.0)
            claiming = outbox.claim(executor_id=executor_id, stuck_epoch=epoch, stuck_beat=beat)
            stands = await (await send(connection, schema, claiming)).fetchone()
            if stands is None:
                return False
        self._stands = stands
        self._claimed_as = executor_id
        self._floor = Floor(stands.floor)
        self._beaten_at = time.monotonic()
        return True

    def _is_stuck(self, found: StandingRow) -> bool:
        """Whether another's beat has stood still for so long; seen for the first time, it has not."""
        epoch, beat, since = self._observed
        if (found.epoch, found.beat) != (epoch, beat):
            self._observed = (found.epoch, found.beat, time.monotonic())
            return False
        return time.monotonic() - since > STUCK_S

    async def release(self) -> None:
        """Give the claim up, so that another takes it at once. It is lost with the executor anyway."""
        engine, stands = self._engine, self._stands
        self.forget()
        if stands is None:
            return
        with suppress(psycopg.Error):
            async with engine.pool.connection() as connection:
                await send(connection, engine.settings.schema, outbox.release(epoch=stands.epoch))
                await send(connection, engine.settings.schema, executor.notify(channel=CHANNEL, payload="released"))

    def forget(self) -> None:
        """The claim is not ours (any more)."""
        self._stands = None
        self._observed = (-1, -1, time.monotonic())

    async def look(self) -> StandingRow:
        """Say that we get on, and read what stands: it waits for what of ours the server still does.

        Raises:
            RelayLostError: The claim is another's.
        """
        engine = self._engine
        async with engine.pool.connection() as connection:
            beating = outbox.beat(epoch=self.stands.epoch)
            stands = await (await send(connection, engine.settings.schema, beating)).fetchone()
        if stands is None:
            raise RelayLostError("the relay was claimed by another executor, or an operator changed the outbox")
        self._stands = stands
        self._beaten_at = time.monotonic()
        return stands

    async def beat_if_due(self) -> None:
        """Say that we get on, if nothing else was written for a while. Raises as `look`."""
        if time.monotonic() - self._beaten_at >= BEAT_S:
            await self.look()

    # -- batches --

    async def has_work(self, refused: Collection[str]) -> bool:
        """Whether there is anything to publish, or to find out."""
        if self.stands.next_token is not None or self.stands.adopts:
            return True
        engine = self._engine
        looking = outbox.has_rows(above=self._floor.look_from(time.monotonic()), refused=tuple(refused))
        async with engine.pool.connection() as connection:
            row = await (await send(connection, engine.settings.schema, looking)).fetchone()
        return row is not None and row[0]

    async def formed(self) -> Batch:
        """The batch that stands formed, with its rows.

        Raises:
            RelayLostError: The claim is another's.
        """
        engine, stands = self._engine, self.stands
        assert stands.next_token is not None, "a batch is formed"
        async with engine.pool.connection() as connection:
            try:
                async with connection.transaction():
                    await send(connection, engine.settings.schema, _fence(stands))
                    rows = await (await send(connection, engine.settings.schema, outbox.batch())).fetchall()
            except psycopg.Error as error:
                raise _judged(error) from error
        return Batch(stands.number + 1, stands.next_token, rows)

    async def next(self, *, is_published: bool, refused: Collection[str]) -> Batch | None:
        """Form a batch of the next committed rows, if there are any.

        Args:
            is_published: Whether the formed one is: its rows leave the table in the same commit. Otherwise it is formed
                anew, which is right only while no producer but ours can publish it.
            refused: Topics that Kafka refuses just now.

        Raises:
            RelayLostError: The claim is another's, or the database lost what it had told us.
        """
        engine, stands, schema = self._engine, self.stands, self._engine.settings.schema
        is_published = is_published and stands.next_token is not None
        if not is_published and stands.next_token is not None:
            self._floor.dissolved()
        token = secrets.token_hex(16)
        forming = outbox.form(
            is_published=is_published,
            token=token,
            above=self._floor.form_from(time.monotonic()),
            floor=self._floor.at,
            refused=tuple(refused),
            rows_max=self._rows_max,
            bytes_max=self._bytes_max,
        )
        async with engine.pool.connection() as connection:
            try:
                async with connection.pipeline(), connection.transaction():
                    await send(connection, schema, _fence(stands))
                    if is_published:
                        await send(connection, schema, outbox.delete_batch())
                    form = await send(connection, schema, forming)
                    batch = await send(connection, schema, outbox.batch())
                formed: FormedRow | None = await form.fetchone()
                rows = await batch.fetchall()
            except psycopg.Error as error:
                raise _judged(error) from error
        assert formed is not None, "the fence found the row"
        assert formed.taken == len(rows), f"{formed.taken} rows in the batch, {len(rows)} in the table"
        number = stands.number + is_published
        self._stands = stands._replace(
            number=number,
            token=stands.next_token if is_published else stands.token,
            next_token=token if rows else None,
        )
        self._beaten_at = time.monotonic()
        self._floor.formed(formed, has_refused=bool(refused))
        return Batch(number + 1, token, rows) if rows else None

    # -- what Kafka says --

    async def adopt(self, *, number: int | None, token: str | None) -> None:
        """Go on from Kafka's position, as an operator decided: all that stands in the table is published.

        Raises:
            RelayLostError: The claim is another's.
        """
        engine, stands = self._engine, self.stands
        adopting = outbox.adopt(number=stands.number if number is None else number, token=token)
        async with engine.pool.connection() as connection:
            try:
                async with connection.transaction():
                    await send(connection, engine.settings.schema, _fence(stands))
                    await send(connection, engine.settings.schema, adopting)
            except psycopg.Error as error:
                raise _judged(error) from error
        self._floor = Floor()
        await self.look()

    async def halt(self, reason: str) -> None:
        """Write why the relay does not go on. Raises `RelayLostError` if the claim is another's: it will see for itself."""
        engine = self._engine
        async with engine.pool.connection() as connection:
            halting = outbox.halt(epoch=self.stands.epoch, reason=reason)
            if await (await send(connection, engine.settings.schema, halting)).fetchone() is None:
                raise RelayLostError("the relay was claimed by another executor")
        await self.look()


def _fence(stands: StandingRow) -> Statement[Any]:
    return outbox.fence(epoch=stands.epoch, token=stands.token, next_token=stands.next_token)


def _judged(error: psycopg.Error) -> Exception:
    """Our fence, or whatever it is."""
    if error.sqlstate == "KP004":
        return RelayLostError("the relay was claimed by another executor, or the database lost what it had told us")
    return error
