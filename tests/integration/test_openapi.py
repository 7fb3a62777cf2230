"""The OpenAPI of a served app: valid, and true, whatever it allows to be sent. On a real process and Postgres."""

import json
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import validate
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi import checks as openapi_checks

from consumers.mock import MockCluster
from tests.integration.commands import WAIT_S, fetch, running
from tests.integration.serving import APP, TOKENS, call, env_of, listens

SETTINGS = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large),
)
"""Of each of sixty operations, five requests that the schema allows and five that it does not: some ten seconds of a core."""

_GENERAL: Any = checks
_OPENAPI: Any = openapi_checks
CHECKS = [
    _GENERAL.not_a_server_error,
    _OPENAPI.status_code_conformance,
    _OPENAPI.content_type_conformance,
    _OPENAPI.response_schema_conformance,
    _OPENAPI.ignored_auth,
]


@pytest.fixture
def port(tmp_path: Path, database: str, mock_cluster: MockCluster) -> Generator[int]:
    """Of a server whose callers are not slowed down, and whose brokers answer."""
    (tmp_path / "shop.py").write_text(APP)
    access = json.dumps({"looker": "viewer", "on-call": "operator", "boss": "admin", "shop": "admin"})
    env = env_of(
        database,
        PROCESSOR_WEB_RATE_MAX="100000",
        PROCESSOR_WEB_REFUSED_MAX="100000",
        PROCESSOR_WEB_ACCESS=access,
        PROCESSOR_KAFKA_BOOTSTRAP_SERVERS=mock_cluster.bootstrap_servers,
    )
    with running(tmp_path, "run", "shop:app", env=env) as program:
        yield listens(program)


@pytest.fixture
def described(port: int) -> dict[str, Any]:
    return call(port, "GET", "/openapi.json", token=TOKENS["looker"]).json()


def test_it_is_an_openapi_and_names_what_may_come_back(described: dict[str, Any]) -> None:
    validate(described)

    place = described["paths"]["/orders/{order_id}"]["post"]
    assert set(place["responses"]) == {"202", "default"}
    assert {each["name"]: each["in"] for each in place["parameters"]} == {
        "order_id": "path",
        "Idempotency-Key": "header",
    }
    assert place["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Order"}
    slow = described["paths"]["/slow"]["get"]
    assert slow["responses"]["200"]["content"]["application/json"]["schema"]["type"] == "integer"
    assert described["security"] == [{"token": []}]
    assert described["paths"]["/open"]["put"]["security"] == []


@pytest.mark.timeout(600)
def test_whatever_is_sent_gets_the_answer_that_is_described(
    port: int, database: str, described: dict[str, Any]
) -> None:
    """Schemathesis: what the schema allows and what it does not, no 5xx, every answer as its schema says."""
    del described["paths"]["/slow"]  # which waits
    schema: Any = schemathesis.openapi.from_dict(described)
    schema.config.update(base_url=f"http://127.0.0.1:{port}")
    headers = {"Authorization": f"Bearer {TOKENS['shop']}"}
    asked: Counter[str] = Counter()

    for operation in (result.ok() for result in schema.get_all_operations()):
        takes_something = any(True for _ in operation.iter_parameters()) or len(operation.body) > 0
        for mode in GenerationMode if takes_something else (GenerationMode.POSITIVE,):

            @SETTINGS
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                asked[case.operation.label] += 1
                case.call_and_validate(headers=headers, checks=CHECKS, timeout=WAIT_S)

            ask()

    started = fetch(database, "SELECT count(*) FROM dbos.workflow_status WHERE name = 'place'")[0][0]
    assert len(asked) == sum(len(operations) for operations in described["paths"].values())
    assert isinstance(started, int)
    assert started > 1
