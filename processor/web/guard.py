"""The one kind of route there is: nobody gets through who was not let in, and what goes wrong is an answer.

Whoever calls is let in or refused before the body is read. A query's name that the route does not know is refused: it could be the
filter that was meant. Bodies are as strict by their models (`models.Asked`).
"""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, cast

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from processor.web.access import Caller
from processor.web.problems import problem_of

Handle = Callable[[Request], Coroutine[Any, Any, Response]]
Need = Callable[[Request], Coroutine[Any, Any, Caller]]
"""Whom a route lets in: who calls, or `Problem` for whom it does not let in."""


class Guarded(APIRoute):
    """A route. Made by `guarded`."""

    need: Need
    longest: timedelta
    is_strict: bool

    def get_route_handler(self) -> Handle:
        """The route's own handler, behind its need."""
        handle = super().get_route_handler()

        async def handle_guarded(request: Request) -> Response:
            try:
                async with asyncio.timeout(self.longest.total_seconds()):
                    request.state.caller = await self.need(request)
                    if self.is_strict:
                        self._check_query(request)
                    return await handle(request)
            except Exception as error:  # noqa: BLE001  # every error is an answer; what nobody foresaw is logged there
                return problem_of(error).response()

        return handle_guarded

    def _check_query(self, request: Request) -> None:
        known = {each.alias for each in self.dependant.query_params}
        if unknown := [name for name in request.query_params if name not in known]:
            said = f"not known here; known are {', '.join(sorted(known))}" if known else "not known here"
            raise RequestValidationError([{"loc": ("query", name), "msg": said} for name in unknown])


def guarded(need: Need, longest: timedelta, *, is_strict: bool) -> type[Guarded]:
    """The class of a route that lets in whom `need` does, and answers within `longest`; strict: only queries that it knows."""
    members = {"need": staticmethod(need), "longest": longest, "is_strict": is_strict}
    return cast("type[Guarded]", type("Guarded", (Guarded,), members))


def caller_of(request: Request) -> Caller:
    """Who has been let in."""
    caller = request.state.caller
    assert isinstance(caller, Caller), "only guarded routes ask"
    return caller
