"""The HTTP server: triggers of the app, what a caller may know of its workflows, the admin API. Needs the extra `web`.

    request ─▶ limits ─▶ guard: who, which role, how often ─▶ route ─▶ engine
               size, number, time      │ 401 403 429                │ 202, 200, 404, 409, 422, 503
               413 408 503             └── before the body is read

Closed by construction: every route is a `guard.Guarded`, which lets nobody through that its `Need` has not let in.
"""

from engine.errors import ConfigurationError

EXTRA = ("fastapi", "starlette", "uvicorn")


def missing_extra(error: ModuleNotFoundError) -> ConfigurationError:
    """What to say where a library of the extra is not installed. Another missing module is raised as it is."""
    if (error.name or "").partition(".")[0] not in EXTRA:
        raise error
    return ConfigurationError(
        f"web: the HTTP server needs {error.name}, which is not installed: pip install 'onceflow[web]'"
    )


__all__ = ["EXTRA", "missing_extra"]
