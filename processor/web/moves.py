"""The admin API's acts that move a partition, or cancel what is open in it. They say what they would do before they do it."""

from http import HTTPStatus

from pydantic import Field
from starlette.requests import Request

from engine import partitions
from engine.errors import ConfigurationError
from engine.partitions import Place
from processor.seeking import Locate, move, target_of
from processor.web.admin import Named, given
from processor.web.guard import caller_of
from processor.web.models import Reason
from processor.web.models_services import CancelledInPartition, Sought
from processor.web.problems import Problem
from processor.web.statements import Statements


class SeekTo(Reason):
    """Where to: an offset, 'earliest', 'latest', or a time with its zone. Without `yes` nothing is changed."""

    to: str = Field(min_length=1, max_length=64)
    yes: bool = False
    new_incarnation: bool = False
    force: bool = False


class CancelOpen(Reason):
    """Which: those of the topic that was made anew since (`former`), or all. Without `yes` nothing is changed."""

    former: bool = True
    yes: bool = False


class Moves:
    """Answers operators who move partitions.

    Args:
        statements: Through which the database is acted on.
        locate: Asks Kafka; `None`: this program knows none.
    """

    def __init__(self, statements: Statements, locate: Locate | None) -> None:
        self._db = statements
        self._locate = locate

    async def seek(self, group: Named, partition: Named, http__request: Request, to: SeekTo) -> Sought:
        """Move a partition's progress, or say what that would do. What has a row does not run again."""
        note, actor, locate = given(to), caller_of(http__request).actor, self._locate
        if locate is None:
            raise Problem(HTTPStatus.CONFLICT, "this program has no Kafka to ask where that is")
        try:
            target = target_of(to.to)
        except ValueError as error:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"to: {error}") from None
        try:
            done, before = await self._db.act(
                lambda c, schema: move(
                    c,
                    schema,
                    Place(group, partition),
                    target=target,
                    locate=locate,
                    note=note,
                    actor=actor,
                    new_incarnation=to.new_incarnation,
                    force=to.force,
                    dry_run=not to.yes,
                )
            )
        except ConfigurationError as error:  # of Kafka: the offset is not there, or nobody answers
            raise Problem(HTTPStatus.CONFLICT, str(error)) from None
        return Sought.of(done, before, done_now=to.yes)

    async def cancel(
        self, group: Named, partition: Named, http__request: Request, cancel: CancelOpen
    ) -> CancelledInPartition:
        """Cancel the open workflows of a partition, or say how many they are."""
        note, actor = given(cancel), caller_of(http__request).actor
        count = await self._db.act(
            lambda c, schema: partitions.cancel(
                c,
                schema,
                Place(group, partition),
                former_only=cancel.former,
                note=note,
                actor=actor,
                dry_run=not cancel.yes,
            )
        )
        return CancelledInPartition(done=cancel.yes and count > 0, workflows=count)


__all__ = ["Moves"]
