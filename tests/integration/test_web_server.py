"""The HTTP server of real processes, on a real Postgres: killed behind an answer, bounded, closed by default."""

import concurrent.futures
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.commands import WAIT_S, Running, environment, fetch, running, wait_for
from tests.integration.serving import APP, TOKENS, call, env_of, listens


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


@pytest.fixture
def served(project: Path, database: str) -> Generator[tuple[Running, int]]:
    with running(project, "run", "shop:app", env=env_of(database)) as program:
        yield program, listens(program)


def test_what_was_answered_survives_kill_9_and_a_request_sent_again_is_the_same_workflow(
    project: Path, database: str
) -> None:
    """P29, I2: killed right behind its answer; the next process ends it, and its caller asks with the same key."""
    order = {"item": "book", "naps_s": 0.01}
    key = {"Idempotency_Key": "order-1"}
    with running(project, "run", "shop:app", env=env_of(database)) as program:
        port = listens(program)
        long = call(port, "POST", "/orders/o-2", order | {"naps_s": 3600}, token=TOKENS["shop"], Idempotency_Key="long")
        first = call(port, "POST", "/orders/o-1", order, token=TOKENS["shop"], **key)
        program.process.kill()
        program.process.wait()

    stood = fetch(database, "SELECT workflow_uuid FROM dbos.workflow_status ORDER BY 1")
    with running(project, "run", "shop:app", env=env_of(database)) as program:
        port = listens(program)
        again = call(port, "POST", "/orders/o-1", order, token=TOKENS["shop"], **key)
        own = call(port, "GET", "/workflows/order-1?wait=60", token=TOKENS["shop"])
        cancelled = call(port, "POST", "/admin/workflows/long/cancel?interrupt=true", {}, token=TOKENS["on-call"])
        code = program.end()

    assert (long.status, first.status, again.status) == (202, 202, 202)
    assert first.json() == {"workflow_id": "order-1", "status": "PENDING"}
    assert again.json()["workflow_id"] == "order-1"
    assert stood == [("long",), ("order-1",)]
    assert own.json()["result"] == "o-1 by shop"
    assert cancelled.json() == {"done": True}
    assert code == 0
    rows = fetch(database, "SELECT workflow_uuid, status, authenticated_user FROM dbos.workflow_status ORDER BY 1")
    assert rows == [("long", "CANCELLED", "shop"), ("order-1", "SUCCESS", "shop")]
    acts = fetch(database, "SELECT actor, action, subject FROM dbos.audit")
    assert acts == [("http:on-call", "cancel workflow", "long")]


def test_a_stop_answers_those_who_wait_and_hands_their_workflows_on(project: Path, database: str) -> None:
    """Nobody is kept until their proxy gives up: 202 with the ID, and the workflow goes on elsewhere."""
    with (
        running(project, "run", "shop:app", env=env_of(database, PROCESSOR_EXECUTOR_DRAIN="2s")) as program,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
        port = listens(program)
        waiting = threads.submit(call, port, "GET", "/slow", token=TOKENS["shop"])
        program.until("it naps")

        code = program.end(signal.SIGTERM)
        answer = waiting.result(WAIT_S)

    assert (code, answer.status) == (0, 202)
    rows = fetch(database, "SELECT workflow_uuid, status FROM dbos.workflow_status")
    assert rows == [(answer.json()["workflow_id"], "PENDING")]


def test_nothing_but_health_answers_without_a_token(served: tuple[Running, int]) -> None:
    """Closed by default: every route there is, as the OpenAPI names them, and what is beside it."""
    port = served[1]
    described = call(port, "GET", "/openapi.json", token=TOKENS["looker"]).json()
    routes = [
        (method.upper(), re.sub(r"\{[a-z_]+\}", "1", path), operation)
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    ]

    answers = {
        (method, path): call(port, method, path, {"item": "a"} if method != "GET" else None).status
        for method, path, _ in routes
    }

    open_to_all = {("GET", "/dbos-healthz"): 200, ("PUT", "/open"): 202}
    assert {route: status for route, status in answers.items() if status != 401} == open_to_all
    assert {(method, path) for method, path, op in routes if op.get("security") == []} == set(open_to_all)
    assert len(answers) > 15
    assert call(port, "GET", "/openapi.json").status == 401
    for path in ("/docs", "/redoc", "/", "/metrics", "/admin", "/dbos-perf/"):
        assert call(port, "GET", path).status == 404
    assert call(port, "GET", "/dbos-perf", token="x" * 40).status == 401
    assert call(port, "GET", "/dbos-healthz").body == b"healthy"


ACCESS: list[tuple[str, str, Any, tuple[int, ...]]] = [
    ("GET", "/dbos-perf", None, (403, 200, 200, 200)),
    ("GET", "/openapi.json", None, (403, 200, 200, 200)),
    ("GET", "/admin/workflows", None, (403, 200, 200, 200)),
    ("GET", "/admin/workflows/none", None, (403, 404, 404, 404)),
    ("GET", "/admin/workflows/none?payloads=true", None, (403, 403, 404, 404)),
    ("GET", "/admin/workflows/none/steps?payloads=true", None, (403, 403, 404, 404)),
    ("GET", "/admin/stranded", None, (403, 200, 200, 200)),
    ("POST", "/admin/workflows/none/cancel", {}, (403, 403, 404, 404)),
    ("POST", "/dbos-workflow-recovery", ["nobody"], (403, 403, 200, 200)),
    ("GET", "/admin/dead-letters", None, (403, 200, 200, 200)),
    ("GET", "/admin/dead-letters/1?payloads=true", None, (403, 403, 404, 404)),
    ("POST", "/admin/dead-letters/1/retry", {"note": "x"}, (403, 403, 409, 409)),
    ("POST", "/admin/dead-letters/1/discard", {"note": "x"}, (403, 403, 403, 409)),
    ("GET", "/admin/partitions", None, (403, 200, 200, 200)),
    ("POST", "/admin/partitions/g/t-0/pause", {"note": "x"}, (403, 403, 409, 409)),
    ("POST", "/admin/partitions/g/t-0/resume", {}, (403, 403, 409, 409)),
    ("POST", "/admin/partitions/g/t-0/release", {}, (403, 403, 403, 409)),
    ("POST", "/admin/partitions/g/t-0/seek", {"note": "x", "to": "1"}, (403, 403, 403, 409)),
    ("POST", "/admin/partitions/g/t-0/cancel", {"note": "x"}, (403, 403, 403, 409)),
    ("GET", "/admin/versions", None, (403, 200, 200, 200)),
    ("POST", "/admin/workflows/none/resume", {}, (403, 403, 404, 404)),
    ("POST", "/admin/workflows/none/restart", {}, (403, 403, 404, 404)),
    ("POST", "/admin/workflows/none/fork", {"from_step": 1}, (403, 403, 404, 404)),
    ("POST", "/admin/workflows/none/delete", {}, (403, 403, 403, 404)),
    ("GET", "/admin/queues", None, (403, 200, 200, 200)),
    ("POST", "/admin/queues/q/pause", {"note": "x"}, (403, 403, 409, 409)),
    ("POST", "/admin/queues/q/resume", {"note": "x"}, (403, 403, 409, 409)),
    ("GET", "/admin/schedules", None, (403, 200, 200, 200)),
    ("POST", "/admin/schedules/s/pause", {"note": "x"}, (403, 403, 409, 409)),
    ("POST", "/admin/schedules/s/resume", {"note": "x"}, (403, 403, 409, 409)),
    ("POST", "/admin/schedules/s/trigger", None, (403, 403, 409, 409)),
    ("POST", "/admin/schedules/s/backfill", {"since": "2026-01-01T00:00:00Z"}, (403, 403, 409, 409)),
    ("GET", "/admin/retention", None, (403, 200, 200, 200)),
    ("GET", "/admin/retention/due", None, (403, 403, 200, 200)),
    ("POST", "/admin/retention/pause", {"note": " "}, (403, 403, 422, 422)),
    ("POST", "/admin/retention/resume", {"note": " "}, (403, 403, 403, 422)),
    ("POST", "/admin/retention/run", {"note": " "}, (403, 403, 403, 422)),
    ("GET", "/admin/outbox", None, (403, 200, 200, 200)),
    ("GET", "/admin/outbox/events", None, (403, 200, 200, 200)),
    ("GET", "/admin/outbox/events?payloads=true", None, (403, 403, 200, 200)),
    ("POST", "/admin/outbox/resume", {"note": "x"}, (403, 403, 403, 409)),
    ("POST", "/admin/outbox/discard", {"note": "x", "events": [1]}, (403, 403, 403, 409)),
    ("POST", "/admin/outbox/rename", {"note": " "}, (403, 403, 403, 422)),
    ("GET", "/admin/audit", None, (403, 403, 403, 200)),
    ("POST", "/orders/o-1", {"item": "a"}, (202, 403, 403, 403)),
]


def test_each_act_takes_its_access(served: tuple[Running, int], database: str) -> None:
    """Rows: who has a token and no access, viewer, operator, admin. What is refused is in no table."""
    port = served[1]

    found = [
        (method, path, body, tuple(call(port, method, path, body, token=token).status for token in TOKENS.values()))
        for method, path, body, _ in ACCESS
    ]

    assert found == ACCESS
    assert fetch(database, "SELECT count(*) FROM dbos.workflow_status") == [(1,)]
    acts = fetch(database, "SELECT actor, action, subject FROM dbos.audit ORDER BY audit_id")
    assert acts == [("http:on-call", "recover", "nobody"), ("http:boss", "recover", "nobody")]


def test_size_number_and_rate_are_bounded(project: Path, database: str) -> None:
    """I10: a large body, announced or not, too many at once, too often, and too many refusals."""
    env = env_of(
        database,
        PROCESSOR_WEB_REQUEST_BYTES_MAX="1000",
        PROCESSOR_WEB_RATE_MAX="5",
        PROCESSOR_WEB_REFUSED_MAX="3",
        PROCESSOR_WEB_REQUEST_TIMEOUT="1s",
    )
    with running(project, "run", "shop:app", env=env) as program:
        port = listens(program)
        large = call(port, "PUT", "/open", b"x" * 1001)
        chunked = chunks(port, "PUT", "/open", [b"x" * 600, b"x" * 600])
        slow = chunks(port, "PUT", "/open", [b"x"], ends=False)
        often = [call(port, "GET", "/dbos-perf", token=TOKENS["looker"]) for _ in range(15)]
        refused = [call(port, "GET", "/dbos-perf", token="wrong" * 10) for _ in range(8)]
        others = call(port, "GET", "/dbos-perf", token=TOKENS["boss"])

    assert (large.status, chunked, slow) == (413, 413, 408)
    assert {each.status for each in often} == {200, 429}
    assert [each.status for each in often[:5]] == [200] * 5
    assert all(int(each.headers["Retry-After"]) >= 1 for each in often if each.status == 429)
    assert [each.status for each in refused] == [401] * 3 + [429] * 5
    assert others.status == 200


def chunks(port: int, method: str, path: str, parts: list[bytes], *, ends: bool = True) -> int:
    """The status that a body of unknown length gets."""
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        for part in parts:
            connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        if ends:
            connection.sendall(b"0\r\n\r\n")
        return int(connection.recv(100).split()[1])


def test_processes_share_the_port(project: Path, database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = env_of(database, PROCESSOR_WEB_PORT=str(port), PROCESSOR_EXECUTOR_DRAIN="2s")
    with running(project, "run", "shop:app", "--processes", "2", env=env) as program:
        for _ in range(2):
            program.until('"web server listens"')
        answers = [
            call(port, "POST", f"/orders/o-{number}", {"item": "a"}, token=TOKENS["shop"]).status
            for number in range(40)
        ]
        wait_for(database, "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'", 40)
        assert program.end() == 0

    assert answers == [202] * 40
    assert fetch(database, "SELECT count(DISTINCT executor_id) FROM dbos.workflow_status") == [(2,)]


WRONG: list[tuple[Mapping[str, str], str]] = [
    ({"PROCESSOR_WEB_TOKENS": json.dumps({"shop": "short"})}, "the token of 'shop' is no token"),
    ({"PROCESSOR_WEB_TOKENS": json.dumps({"a": "x" * 32, "b": "x" * 32})}, "has the token of another"),
    ({"PROCESSOR_WEB_ACCESS": json.dumps({"nobody": "admin"})}, "'nobody' has no token"),
    ({"PROCESSOR_WEB_ACCESS": json.dumps({"shop": "root"})}, "PROCESSOR_WEB_ACCESS: Input should be"),
]


@pytest.mark.parametrize("env, said", WRONG, ids=[said for _, said in WRONG])
def test_tokens_that_are_none_are_refused_at_start_and_not_shown(
    project: Path, database: str, env: Mapping[str, str], said: str
) -> None:
    with running(project, "run", "shop:app", env=env_of(database) | dict(env)) as program:
        assert program.wait() == 2

    told = "\n".join(program.lines)
    assert said in told
    assert "x" * 32 not in told
    assert TOKENS["shop"] not in told


def test_an_app_with_triggers_imports_and_runs_without_the_extra_and_says_so_where_it_is_needed(
    project: Path, database: str
) -> None:
    """FastAPI, Starlette and uvicorn are hidden from these processes."""
    hide = "import sys\nfor name in ('fastapi', 'starlette', 'uvicorn'): sys.modules[name] = None\n"
    (project / "hidden.py").write_text(
        f"{hide}from shop import app\nimport processor, processor.runtime, processor.testing\n"
    )
    imported = subprocess.run(
        [sys.executable, "-c", "import hidden"], cwd=project, env=environment({}), capture_output=True, check=False
    )

    with running(project, "run", "hidden:app", env=env_of(database)) as program:
        code = program.wait()
    with running(project, "run", "hidden:app", env=env_of(database, PROCESSOR_WEB_ENABLED="false")) as unserved:
        unserved.until("HTTP triggers are not served")
        unserved.until('"started"')
        assert unserved.end() == 0

    assert imported.returncode == 0, imported.stderr
    assert code == 2
    assert re.search(r"needs \w+, which is not installed: pip install 'onceflow\[web\]'", "\n".join(program.lines))
