"""The one kind of route there is: nobody gets through who was not let in, and what goes wrong is an answer.

Whoever calls is let in or refused before the body is read.
"""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, cast

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

    def get_route_handler(self) -> Handle:
        """The route's own handler, behind its need."""
        handle = super().get_route_handler()

        async def handle_guarded(request: Request) -> Response:
            try:
                async with asyncio.timeout(self.longest.total_seconds()):
                    request.state.caller = await self.need(request)
                    return await handle(request)
            except Exception as error:  # noqa: BLE001  # every error is an answer; what nobody foresaw is logged there
                return problem_of(error).response()

        return handle_guarded


def guarded(need: Need, longest: timedelta) -> type[Guarded]:
    """The class of a route that lets in whom `need` does, and answers within `longest`."""
    return cast("type[Guarded]", type("Guarded", (Guarded,), {"need": staticmethod(need), "longest": longest}))


def caller_of(request: Request) -> Caller:
    """Who has been let in."""
    caller = request.state.caller
    assert isinstance(caller, Caller), "only guarded routes ask"
    return caller
