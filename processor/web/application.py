"""All routes of one server, and whom each lets in: read here what is open to whom.

    /dbos-healthz                                       everybody
    the app's triggers                                  who has the roles they require; public ones: everybody
    /workflows/{id}                                     whoever calls triggers: of their own workflows
    /openapi.json, GET /admin/…, /dbos-perf             viewers
    POST /admin/…, /dbos-workflow-recovery              operators; what gives up, deletes or overrides: admins (also `admin_routes.py`)

The server's own come first: a trigger at `/{name}` takes none of them.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from engine.engine import Engine
from engine.errors import ConfigurationError
from engine.tracing import Tracing
from processor.app import App
from processor.config import Settings
from processor.config_web import WebSettings
from processor.handlers import Registration
from processor.routes import Authenticate, Http
from processor.seeking import locate_by
from processor.web.access import Access, Caller, Doorkeeper
from processor.web.admin import Admin
from processor.web.admin_routes import add_examinations, add_mass_acts, add_services, add_workflow_acts
from processor.web.examinations import Examinations
from processor.web.guard import Need, guarded
from processor.web.limits import Limits
from processor.web.mass_acts import MassActs
from processor.web.models import ShownWorkflow
from processor.web.moves import Moves
from processor.web.problems import MEDIA_TYPE, problem_of
from processor.web.services import Services
from processor.web.statements import Statements
from processor.web.telemetry import HttpAnswered
from processor.web.triggers import KEY_HEADERS, WORKFLOWS, Triggers, answers
from processor.web.workflow_acts import WorkflowActs

PROBLEM = {
    "type": "object",
    "required": ["title", "status", "detail"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "description": "Of 422: each field that does not fit.",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "workflow_id": {"type": "string", "description": "Of 500, where the workflow failed."},
        "workflow_status": {"type": "string"},
        "error": {"type": "object", "properties": {"type": {"type": "string"}, "message": {"type": "string"}}},
    },
}


class Site:
    """The ASGI application of an app.

    Attributes:
        api: The routes.
        asgi: The routes within the limits: what a server runs, or what is mounted in another application.
        closing: Set it when the process stops: nobody is kept waiting for a result then.

    Args:
        app: Whose triggers it has.
        engine: Where they run.
        settings: Tokens and bounds.
        tell: Told of each answer.
        authentication: Instead of the app's own.
        tracing: Of the engine; `None`: requests have no spans.
        of_process: By which servers are reached, to move partitions and to examine everything; `None`: nothing of it is done.

    Raises:
        ConfigurationError: Tokens or triggers are not as they must be.
    """

    def __init__(
        self,
        app: App,
        engine: Callable[[], Engine],
        settings: WebSettings,
        *,
        tell: Callable[[HttpAnswered], None],
        authentication: Authenticate | None = None,
        tracing: Tracing | None = None,
        of_process: Settings | None = None,
    ) -> None:
        self._settings = settings
        self._door = Doorkeeper(settings, authentication or app.authentication)
        self.closing = asyncio.Event()
        # No documentation pages: they fetch scripts from elsewhere. No OpenAPI of FastAPI's own: it would be open.
        self.api = FastAPI(title=app.name, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
        self.api.openapi = self._openapi
        for error in (HTTPException, RequestValidationError):
            self.api.add_exception_handler(error, _answer)
        triggers = Triggers(engine, self._door, self.closing)
        statements = Statements(engine)
        self._add_admin(Admin(engine, statements))
        moves = Moves(statements, None if of_process is None else locate_by(of_process))
        add_workflow_acts(self._add, self._of, WorkflowActs(engine, statements), moves)
        add_mass_acts(self._add, self._of, MassActs(app, engine, statements))
        add_services(self._add, self._of, Services(engine, statements))
        add_examinations(self._add, self._of, Examinations(app, engine, statements, of_process))
        self._add_own(triggers)
        for registration in app.workflows.values():
            if registration.http is not None:
                self._add_trigger(triggers, registration, registration.http)
        self.asgi: ASGIApp = _traced(Limits(self.api, settings, tell), tracing)

    # -- routes --

    def _add_trigger(self, triggers: Triggers, registration: Registration, http: Http) -> None:
        route = self._add(
            http.method,
            http.path,
            triggers.endpoint(registration, http),
            need=triggers.need(registration, http),
            longest=http.wait or timedelta(0),
            is_strict=False,  # a caller's queries are the app's affair: links carry names for others
            tags=["triggers"],
            response_model=None,
            status_code=202,
            responses=answers(registration, http),
            openapi_extra={"parameters": _KEY_PARAMETERS} | ({"security": []} if http.public else {}),
        )
        if http.method in ("GET", "DELETE") and route.body_field is not None:
            raise ConfigurationError(
                f"workflow {registration.name!r}: {http} has no body, and its arguments need one:\n"
                f"  {', '.join(each.name for each in route.dependant.body_params)}"
            )

    def _add_own(self, triggers: Triggers) -> None:
        async def need(request: Request) -> Caller:
            return await self._door.user(request, WORKFLOWS)

        longest = timedelta(minutes=5)
        self._add(
            "GET", f"{WORKFLOWS}/{{workflow_id:path}}", triggers.own, need=need, longest=longest, tags=["triggers"]
        )

    def _add_admin(self, admin: Admin) -> None:
        viewer, operator, administrator = (self._of(each) for each in Access)

        async def everybody(request: Request) -> Caller:
            del request
            return Caller(None)

        async def openapi() -> dict[str, Any]:
            """This description."""
            return self.api.openapi()

        text = {"content": {"text/plain": {"schema": {"const": "healthy"}}}}
        self._add(
            "GET",
            "/dbos-healthz",
            admin.healthz,
            need=everybody,
            is_strict=False,
            response_model=None,
            responses={200: text},
            openapi_extra={"security": []},
        )
        add = self._add
        add("GET", "/dbos-perf", admin.perf, need=viewer)
        add("POST", "/dbos-workflow-recovery", admin.recover, need=operator)
        add("GET", "/openapi.json", openapi, need=viewer, include_in_schema=False)
        add("GET", "/admin/workflows", admin.workflows, need=viewer)
        add("GET", "/admin/stranded", admin.stranded, need=viewer)
        # IDs are of users, and may have a '/': what stands behind one comes first.
        one = "/admin/workflows/{workflow_id:path}"
        add("GET", f"{one}/steps", admin.steps, need=viewer)
        add("POST", f"{one}/cancel", admin.cancel, need=operator)
        add("GET", "/admin/dead-letters", admin.dead_letters, need=viewer)
        add("GET", "/admin/dead-letters/{dead_letter_id}", admin.dead_letter, need=viewer)
        add("POST", "/admin/dead-letters/{dead_letter_id}/retry", admin.retry, need=operator)
        add("POST", "/admin/dead-letters/{dead_letter_id}/discard", admin.discard, need=administrator)
        add("GET", "/admin/partitions", admin.partitions, need=viewer)
        partition = "/admin/partitions/{group}/{partition}"
        add("POST", f"{partition}/pause", admin.pause, need=operator)
        add("POST", f"{partition}/resume", admin.resume, need=operator)
        add("POST", f"{partition}/release", admin.release, need=administrator)
        add("GET", "/admin/audit", admin.audit, need=administrator)
        add("GET", one, admin.workflow, need=viewer, response_model=ShownWorkflow)

    def _of(self, least: Access) -> Need:
        async def need(request: Request) -> Caller:
            return self._door.operator(request, least)

        return need

    def _add(
        self,
        method: str,
        path: str,
        endpoint: Callable[..., Any],
        *,
        need: Need,
        longest: timedelta = timedelta(0),
        is_strict: bool = True,
        tags: list[str] | None = None,
        **options: Any,
    ) -> Any:
        """The only way that a route comes here. Returns it. One time-out is for its request, one for its answer."""
        self.api.router.add_api_route(
            path,
            endpoint,
            methods=[method],
            tags=list(tags or ["admin"]),
            route_class_override=guarded(need, longest + 2 * self._settings.request_timeout, is_strict=is_strict),
            **options,
        )
        return self.api.router.routes[-1]

    # -- its description --

    def _openapi(self) -> dict[str, Any]:
        if self.api.openapi_schema is None:
            made = get_openapi(title=self.api.title, version="1", routes=self.api.routes, description=_DESCRIPTION)
            self.api.openapi_schema = _described(made)
        return self.api.openapi_schema


_DESCRIPTION = (
    "Triggers start workflows; the admin API is for operators. Errors are `application/problem+json`. Repeat a request that"
    " got no answer with the same `Idempotency-Key`."
)

_KEY_PARAMETERS = [
    {
        "name": "-".join(part.capitalize() for part in name.split("-")),
        "in": "header",
        "required": False,
        "description": "The workflow's ID: the same again is the same workflow.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 512},
    }
    for name in KEY_HEADERS[:1]
]


def _described(made: dict[str, Any]) -> dict[str, Any]:
    """With tokens, and with the answers that every route may give."""
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = PROBLEM
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"token": []}]
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for operations in made["paths"].values():
        for operation in operations.values():
            answered = operation["responses"]
            answered.pop("422", None)
            answered["default"] = {"description": "What is wrong.", "content": content}
    return made


def _traced(app: ASGIApp, tracing: Tracing | None) -> ASGIApp:
    if tracing is None:
        return app
    from processor.tracing import Spans
    from processor.web.tracing import TracedRequests

    return TracedRequests(app, tracing) if isinstance(tracing, Spans) else app


async def _answer(request: Request, error: Exception) -> Response:
    del request
    return problem_of(error).response()
