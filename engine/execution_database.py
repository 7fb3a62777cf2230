"""Connections of whoever works with executions beside the engine: transactions under an execution's lock (decision 0016).

Whatever changes an execution locks its workflow's row, then looks who has it, in a statement of its own, then acts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from psycopg import AsyncConnection

from engine.errors import ConfigurationError
from engine.ids import OwnerToken
from engine.payloads import Payloads
from engine.pool import Pool
from engine.settings import EngineSettings
from engine.store import execution_claims, executions
from engine.store.executions import LockedExecution
from engine.store.executor import notify
from engine.store.statement import Statement, send
from engine.weather import through_weather

Row = TypeVar("Row")
Value = TypeVar("Value")


class ExecutionDatabase:
    """Belongs to one event loop; open it with `async with`.

    Args:
        settings: Where executions are; `pool_max` connections at most.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.payloads = Payloads(settings.payload_keys)
        self._pool: Pool | None = None
        self.claimed: dict[str, tuple[str, OwnerToken]] = {}
        """Worker and token of claims of ours, also of lost ones: what they write must not count."""

    # -- life --

    @property
    def is_open(self) -> bool:
        """Whether it has its connections."""
        return self._pool is not None

    async def open(self) -> None:
        """Open the connections. May be called again, also when it was closed."""
        if self._pool is None:
            pool = Pool(self.settings, "onceflow executions")
            await pool.open()
            self._pool = pool

    async def close(self) -> None:
        """Close the connections. Claims stand until their time is over."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- statements --

    def token_of(self, execution_id: str, worker_id: str | None = None) -> OwnerToken | None:
        """The token of a claim that was taken here, lost or not; `None`: there is none, or it is another worker's."""
        claimed = self.claimed.get(execution_id)
        return None if claimed is None or worker_id not in (None, claimed[0]) else claimed[1]

    def sealed(self, text: str | None) -> str | None:
        """What is of users as its column has it (decision 0012)."""
        seal = self.payloads.seal
        return text if text is None or seal is None else seal(text)

    async def locked(self, connection: AsyncConnection[Any], execution_id: str) -> LockedExecution | None:
        """An execution under its lock, its claim buried if its time is over; `None`: there is none."""
        if await self.one(connection, executions.lock(execution_id=execution_id)) is None:
            return None
        await send(connection, self.settings.schema, execution_claims.expire_of(execution_id=execution_id))
        return await self.one(connection, executions.state(execution_id=execution_id))

    async def transaction(self, act: Callable[[AsyncConnection[Any]], Awaitable[Value]]) -> Value:
        """Run statements in a transaction, until Postgres answers: safe to repeat after an unknown COMMIT."""

        async def attempt() -> Value:
            async with self.connection() as connection, connection.transaction():
                return await act(connection)

        return await through_weather(attempt)

    def connection(self) -> Any:
        """A connection, for an `async with` block. Raises `ConfigurationError` where it is not open."""
        if self._pool is None:
            raise ConfigurationError("the store of executions is not open: `async with store:` around its use")
        return self._pool.connection()

    async def one(self, connection: AsyncConnection[Any], statement: Statement[Row]) -> Row | None:
        """The first row, in a transaction."""
        return await (await send(connection, self.settings.schema, statement)).fetchone()

    async def first(self, statement: Statement[Row]) -> Row | None:
        """The first row of a statement that may be repeated."""
        rows = await self.all(statement)
        return rows[0] if rows else None

    async def all(self, statement: Statement[Row]) -> list[Row]:
        """The rows of a statement that may be repeated."""

        async def attempt() -> list[Row]:
            async with self.connection() as connection:
                return await (await send(connection, self.settings.schema, statement)).fetchall()

        return await through_weather(attempt)

    async def hint(self, payload: str) -> None:
        """Tell engines what was committed: they would find it at their next look."""
        await self.first(notify(channel="processor_rows", payload=payload))
