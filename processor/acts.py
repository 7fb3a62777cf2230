"""What an app offers on any workflows of its database, whoever started them and wherever they run.

    await app.list_workflows(WorkflowFilter(status="ERROR", name="fulfil"))
    await app.resume_workflows(ids)       back to work
    await app.cancel_workflows(ids)       no further step
    await app.delete_workflows(ids)       gone
    app.sync                              the same for threads

One workflow: `app.retrieve(id)`, which also forks and restarts it. In a workflow all of these are remembered.
"""

from abc import abstractmethod
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar, overload

from engine import acts, listing
from engine.acts import Acted, through_pool
from engine.handles import WorkflowInfo
from engine.listing import After, WorkflowFilter
from engine.reach import Reach
from processor.blocking import from_thread
from processor.codec import Result, result_codec
from processor.handles import SyncWorkflowHandle, WorkflowHandle, remembered
from processor.messaging import StreamReader, SyncStreamReader, event_of, send_to, stream_of
from processor.values import decoder

E = TypeVar("E")

_ACTED: Result[Acted] = result_codec(Acted)
_INFOS: Result[list[WorkflowInfo]] = result_codec(list[WorkflowInfo])
_IDS: Result[list[str]] = result_codec(list[str])


class Acts:
    """Of an app: what it can do to workflows by their IDs."""

    @abstractmethod
    def engine(self) -> Reach:
        """What does it in this process."""

    @property
    def sync(self) -> "SyncActs":
        """The same from threads: sync workflows, and programs whose loop runs in another thread."""
        return SyncActs(self)

    @overload
    def retrieve(self, id: str) -> WorkflowHandle[Any]: ...
    @overload
    def retrieve(self, id: str, *, model: type[E]) -> WorkflowHandle[E]: ...
    def retrieve(self, id: str, *, model: Any = Any) -> WorkflowHandle[Any]:
        """The handle of any workflow, whoever started it: also of a record's.

        `model` is what its result is read as; JSON values unless given. `fulfil.retrieve(id)` reads it as that workflow's.
        """
        return WorkflowHandle(id, self.engine, decoder(model, f"result of {id}"))

    def list_workflows(
        self,
        chosen: WorkflowFilter | None = None,
        *,
        limit: int = 100,
        offset: int = 0,
        after: WorkflowInfo | None = None,
        newest_first: bool = False,
        payloads: bool = True,
    ) -> Coroutine[Any, Any, list[WorkflowInfo]]:
        """Workflows by the time of their creation, of records too.

        Args:
            chosen: Which; `None`: all.
            limit: Most of them, up to 10,000.
            offset: How many to pass over before.
            after: The last of the page before, for pages that stay apart while rows are added, and cost the same however far.
            newest_first: The other way round.
            payloads: Whether to read inputs, outputs and errors.

        Raises:
            ConfigurationError: `limit` or `offset` cannot be.
        """

        async def read() -> list[WorkflowInfo]:
            engine = self.engine()
            return await through_pool(
                engine,
                lambda connection, schema: listing.list_workflows(
                    connection,
                    schema,
                    chosen,
                    limit=limit,
                    offset=offset,
                    after=None if after is None else After.of(after),
                    newest_first=newest_first,
                    payloads=engine.payloads if payloads else None,
                ),
            )

        return remembered("DBOS.listWorkflows", read, _INFOS, self.engine)

    def cancel_workflows(
        self, ids: Sequence[str], *, interrupt: bool = False, children: bool = False
    ) -> Coroutine[Any, Any, list[str]]:
        """Cancel workflows that have not ended; returns which were. See `WorkflowHandle.cancel`.

        Args:
            ids: Which.
            interrupt: Also cancel their async steps, where they wait next.
            children: Also what they started, and so on, as far as it has not ended.
        """

        async def cancel() -> list[str]:
            engine = self.engine()
            chosen = list(ids)
            if children:
                chosen = await through_pool(
                    engine, lambda connection, schema: acts.family(connection, schema, list(ids))
                )
            return await engine.cancels.cancel(chosen, interrupt=interrupt)

        return remembered("DBOS.cancelWorkflows", cancel, _IDS, self.engine)

    def resume_workflows(self, ids: Sequence[str], *, version: str | None = None) -> Coroutine[Any, Any, Acted]:
        """Put workflows that were cancelled, failed or given up back to work. See `WorkflowHandle.resume`.

        Returns what became of each: none of them is an error.
        """

        async def resume() -> Acted:
            engine = self.engine()
            acted = await through_pool(
                engine, lambda connection, schema: acts.resume(connection, schema, list(ids), version=version)
            )
            engine.look_for_rows()
            return acted

        return remembered("DBOS.resumeWorkflows", resume, _ACTED, self.engine)

    def delete_workflows(self, ids: Sequence[str], *, children: bool = False) -> Coroutine[Any, Any, Acted]:
        """Delete workflows that have ended, with their histories. See `WorkflowHandle.delete`.

        Args:
            ids: Which.
            children: Also what they started, and so on; of a family all, or none.

        Returns what became of each: none of them is an error.
        """

        async def delete() -> Acted:
            return await through_pool(
                self.engine(),
                lambda connection, schema: acts.delete(connection, schema, list(ids), children=children),
            )

        return remembered("DBOS.deleteWorkflows", delete, _ACTED, self.engine)

    def send(
        self, destination_id: str, message: Any, topic: str | None = None, *, idempotency_key: str | None = None
    ) -> Coroutine[Any, Any, None]:
        """Send a message to a workflow from anywhere in this program: durable when it returns. See `processor.send`."""
        return send_to(self.engine, destination_id, message, topic, idempotency_key)

    @overload
    def get_event(
        self, workflow_id: str, key: str, *, timeout: timedelta | None = None
    ) -> Coroutine[Any, Any, Any]: ...
    @overload
    def get_event(
        self, workflow_id: str, key: str, *, model: type[E], timeout: timedelta | None = None
    ) -> Coroutine[Any, Any, E | None]: ...
    def get_event(
        self, workflow_id: str, key: str, *, model: Any = Any, timeout: timedelta | None = None
    ) -> Coroutine[Any, Any, Any]:
        """An event of a workflow, once it is set, for anybody in this program. See `processor.get_event`."""
        return event_of(self.engine, workflow_id, key, model, timeout)

    @overload
    def read_stream(self, workflow_id: str, key: str, *, offset: int = 0) -> StreamReader[Any]: ...
    @overload
    def read_stream(self, workflow_id: str, key: str, *, model: type[E], offset: int = 0) -> StreamReader[E]: ...
    def read_stream(self, workflow_id: str, key: str, *, model: Any = Any, offset: int = 0) -> StreamReader[Any]:
        """Read a stream of a workflow from anywhere in this program. See `processor.read_stream`."""
        return stream_of(self.engine, workflow_id, key, model, offset)


class SyncActs:
    """`Acts` for threads."""

    def __init__(self, acts: Acts) -> None:
        self._acts = acts

    @overload
    def retrieve(self, id: str) -> SyncWorkflowHandle[Any]: ...
    @overload
    def retrieve(self, id: str, *, model: type[E]) -> SyncWorkflowHandle[E]: ...
    def retrieve(self, id: str, *, model: Any = Any) -> SyncWorkflowHandle[Any]:
        """The handle of any workflow. See `App.retrieve`."""
        return SyncWorkflowHandle(self._acts.retrieve(id, model=model), self._acts.engine)

    def list_workflows(
        self,
        chosen: WorkflowFilter | None = None,
        *,
        limit: int = 100,
        offset: int = 0,
        after: WorkflowInfo | None = None,
        newest_first: bool = False,
        payloads: bool = True,
    ) -> list[WorkflowInfo]:
        """Workflows by the time of their creation. See `App.list_workflows`."""
        return from_thread(
            self._acts.engine,
            lambda: self._acts.list_workflows(
                chosen, limit=limit, offset=offset, after=after, newest_first=newest_first, payloads=payloads
            ),
        )

    def cancel_workflows(self, ids: Sequence[str], *, interrupt: bool = False, children: bool = False) -> list[str]:
        """Cancel workflows that have not ended. See `App.cancel_workflows`."""
        return from_thread(
            self._acts.engine, lambda: self._acts.cancel_workflows(ids, interrupt=interrupt, children=children)
        )

    def resume_workflows(self, ids: Sequence[str], *, version: str | None = None) -> Acted:
        """Put workflows back to work. See `App.resume_workflows`."""
        return from_thread(self._acts.engine, lambda: self._acts.resume_workflows(ids, version=version))

    def delete_workflows(self, ids: Sequence[str], *, children: bool = False) -> Acted:
        """Delete workflows that have ended. See `App.delete_workflows`."""
        return from_thread(self._acts.engine, lambda: self._acts.delete_workflows(ids, children=children))

    def send(
        self, destination_id: str, message: Any, topic: str | None = None, *, idempotency_key: str | None = None
    ) -> None:
        """Send a message to a workflow. See `App.send`."""
        self.retrieve(destination_id).send(message, topic, idempotency_key=idempotency_key)

    @overload
    def get_event(self, workflow_id: str, key: str, *, timeout: timedelta | None = None) -> Any: ...
    @overload
    def get_event(
        self, workflow_id: str, key: str, *, model: type[E], timeout: timedelta | None = None
    ) -> E | None: ...
    def get_event(self, workflow_id: str, key: str, *, model: Any = Any, timeout: timedelta | None = None) -> Any:
        """An event of a workflow, once it is set. See `App.get_event`."""
        return self.retrieve(workflow_id).get_event(key, model=model, timeout=timeout)

    @overload
    def read_stream(self, workflow_id: str, key: str, *, offset: int = 0) -> SyncStreamReader[Any]: ...
    @overload
    def read_stream(self, workflow_id: str, key: str, *, model: type[E], offset: int = 0) -> SyncStreamReader[E]: ...
    def read_stream(self, workflow_id: str, key: str, *, model: Any = Any, offset: int = 0) -> SyncStreamReader[Any]:
        """Read a stream of a workflow. See `App.read_stream`."""
        return self.retrieve(workflow_id).read_stream(key, model=model, offset=offset)


__all__ = ["Acts", "SyncActs"]
