"""What may stand in the values: the schema, the comments and the processor's own settings agree."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import helm_python
import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import SecretStr

from deploy import CHART
from deploy.__main__ import stale
from deploy.chart_page import rows
from deploy.values_schema import READ_BY_TEMPLATES
from processor.loading import Setting, all_settings, load_settings
from processor.units import spell_duration
from tests.deploy.chart import APP, OPTIONS, Values, everything, merged, named, render

VALUES: Values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
FREE = {"settings", "secretSettings", "overrides", "liveness", "readiness", "startup"}
"""Below which the keys are the user's choice among many."""
OPEN = {"global", "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1"}
"""Whose keys are somebody else's."""


def test_derived_files_are_what_they_should_be() -> None:
    assert stale() == [], "run `python -m deploy`"


def test_every_value_has_a_meaning() -> None:
    assert [row.path for row in rows((CHART / "values.yaml").read_text(encoding="utf-8")) if not row.meaning] == []


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    def keys(values: Values, schema: dict[str, Any], path: str = "") -> Iterator[str]:
        known = schema.get("properties", {})
        for name in sorted(values.keys() ^ (known.keys() - {"global"})):
            yield f"{path}{name}"
        for name in values.keys() & known.keys():
            # Below that, values are the user's: settings, parts of a pod.
            if isinstance(values[name], dict) and "properties" in known[name] and name not in FREE:
                yield from keys(values[name], known[name], f"{path}{name}.")

    assert list(keys(VALUES, SCHEMA)) == []


def test_no_object_takes_keys_that_it_does_not_name() -> None:
    """Everywhere: in the chart's own values, in settings, in parts of pods."""

    def open_objects(node: Any, path: str = "") -> Iterator[str]:
        if isinstance(node, list):
            for each in cast("list[Any]", node):
                yield from open_objects(each, path)
        if isinstance(node, dict):
            schema = cast("dict[str, Any]", node)
            if "object" in schema.get("type", "") and "additionalProperties" not in schema:
                yield path
            for key, value in schema.items():
                yield from open_objects(value, f"{path}/{key}")

    found = {path for path in open_objects(SCHEMA) if path.rpartition("/")[2] not in OPEN}

    assert found == set()


NONSENSE: list[Values] = [
    {"replica": 3},
    {"image": {"name": "x"}},
    {"settings": {"kafka": {"gruop": "shop"}}},
    {"settings": {"kafak": {}}},
    {"secretSettings": {"postgres.dns": {"secret": "a", "key": "b"}}},
    {"secretSettings": {"postgres.dsn": {"secret": "a", "kay": "b"}}},
    {"secretSettings": {"executor.drain": {"secret": "a", "key": "b"}}},
    {"tolerations": [{"effekt": "NoSchedule"}]},
    {"resources": {"limit": {}}},
    {"extraVolumes": [{"name": "a", "configmap": {}}]},
    {"sidecars": [{"name": "a", "image": "b", "ports": [{"port": 1}]}]},
    {"podSecurityContext": {"runAsNonroot": True}},
    {"networkPolicy": {"egress": [{"port": []}]}},
    {"probes": {"liveness": {"path": "/"}}},
    {"prometheusRule": {"disabled": ["OnceflowNoSuchAlert"]}},
    {"prometheusRule": {"overrides": {"OnceflowRecordStuck": {"severty": "critical"}}}},
    {"keda": {"topics": [{"name": "^orders.*"}]}},
    {"kind": "DaemonSet"},
    {"topologySpread": {"zone": "off"}},
    {"image": {"digest": "sha256:abc"}},
    {"settings": {"http": {"port": 0}}},
    {"settings": {"http": {"host": "127.0.0.1"}}},
    {"settings": {"web": {"port": 0}}},
    {"settings": {"web": {"tokens": {"shop": "hunter2"}}}},
    {"settings": {"web": {"access": {"shop": "root"}}}},
    {"settings": {"executor": {"drain": "${DRAIN}"}}},
    {"settings": {"executor": {"drain": "soon"}}},
    {"settings": {"executor": {"name": "worker"}}},
    {"settings": {"kafka": {"group_instance_id": "worker"}}},
    {"settings": {"kafka": {"extra": {"ssl.key.Password": "x"}}}},
    {"settings": {"outbox": {"extra": {"sasl.Jaas.config": "x"}}}},
    {"settings": {"kafka": {"extra": {"ssl.key.pem": "x"}}}},
    {"settings": {"kafka": {"extra": {"sasl.oauthbearer.config": "x"}}}},
    {"settings": {"kafka": {"extra": {"x.y": "-----BEGIN PRIVATE KEY-----"}}}},
    {"settings": {"registry": {"url": "https://ada:hunter2@registry:8081"}}},
    {"settings": {"registry": {"url": "https://hunter2@registry:8081"}}},
    {"settings": {"kafka": {"sasl": {"oauthbearer_token_endpoint_url": "https://ada:hunter2@id"}}}},
    {"settings": {"migrate": ["psql postgresql://ada:hunter2@db/shop"]}},
    {"settings": {"rollback": [["psql", "host=db password=hunter2"]]}},
]


@pytest.mark.parametrize("values", NONSENSE, ids=json.dumps)
def test_what_is_misspelt_or_makes_no_sense_is_refused(values: Values) -> None:
    with pytest.raises(helm_python.HelmValuesError):
        render(values)


def test_the_schema_takes_every_option() -> None:
    """The same by another validator, the one editors are like."""
    validator: Any = Draft202012Validator(SCHEMA)

    for name, values in {"all": everything(), **OPTIONS}.items():
        assert [error.message for error in validator.iter_errors(merged(VALUES, APP, values))] == [], name


# -- settings


def sample(setting: Setting) -> Any:
    """A value of a setting that is not its default, as a person writes it."""
    special = {
        "postgres.schema": "other",
        "kafka.extra": {"fetch.min.bytes": 100_000},
        "outbox.extra": {"linger.ms": 20},
        "kafka.group_instance_id": "${POD_NAME}",
        "kafka.session_timeout": "45s",
        "kafka.sasl.mechanism": "PLAIN",
        "kafka.security_protocol": "SASL_SSL",
        "partitions.start": "timestamp",
        "partitions.start_timestamp": "2026-01-31T00:00:00Z",
        "executor.name": "${POD_NAME}",
        "executor.lease": "20s",
        "queues.listen": ["mails"],
        "retention.handlers": {"audit": {"success": "forever"}},
        "http.host": "::",
        "web.host": "::",
        "web.access": {"on-call": "operator"},
        "web.roles": {"shop": ["customer"]},
        "web.trusted_proxies": ["10.0.0.0/8"],
        "metrics.latency_buckets_s": [0.01, 0.1, 1],
        "tracing.endpoint": "http://collector:4318/v1/traces",
        "tracing.sample_ratio": 0.25,
        "migrate": ["python -m shop.migrate", ["psql", "-c", "SELECT 1"]],
        "rollback": ["python -m shop.rollback"],
    }
    if setting.key in special:
        return special[setting.key]
    default = setting.field.get_default(call_default_factory=True)
    annotation = str(setting.field.annotation)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if hasattr(default, "total_seconds"):
        return spell_duration(default * 2)
    if default == "never":
        return "7s"
    if "Literal" in annotation:
        return [each for each in get_args(setting.field.annotation) if each != default][-1]
    return "some-text"


def tree(values: dict[str, Any]) -> Values:
    """{'a.b': 1} as {'a': {'b': 1}}."""
    return merged(*(nest(key, value) for key, value in values.items()))


def nest(key: str, value: Any) -> Values:
    first, _, rest = key.partition(".")
    return {first: nest(rest, value) if rest else value}


def is_secret(setting: Setting) -> bool:
    return SecretStr.__name__ in str(setting.field.annotation)


def test_every_setting_reaches_the_processor_from_the_config_map(tmp_path: Path) -> None:
    """Written in the values, rendered, read by the processor: the same as if it had been given directly."""
    given = {setting.key: sample(setting) for setting in all_settings() if not is_secret(setting)}
    given |= {"executor.drain": "20s"}
    environment = {"POD_NAME": "shop-0"}

    config_map = named("ConfigMap", "shop-onceflow", render({"settings": tree(given)}))

    rendered, direct = tmp_path / "rendered.yaml", tmp_path / "direct.yaml"
    rendered.write_text(config_map["data"]["processor.yaml"])
    direct.write_text(yaml.safe_dump(tree(given)))
    found = load_settings(rendered, environment)
    assert found == load_settings(direct, environment)
    defaults = load_settings(None, {})
    for setting in all_settings():
        if not is_secret(setting):
            assert at(found, setting) != at(defaults, setting), setting.key


def at(settings: Any, setting: Setting) -> Any:
    for part in setting.path:
        settings = getattr(settings, "schema_name" if part == "schema" else part)
    return settings


def test_every_setting_reaches_the_processor_from_a_secret() -> None:
    """But those that the templates read."""
    secret_settings = {
        setting.key: {"secret": "shop", "key": setting.key}
        for setting in all_settings()
        if setting.key not in READ_BY_TEMPLATES
    }
    job = named("Job", "shop-onceflow-migrate", render({"secretSettings": secret_settings}))
    environment = {each["name"] for each in job["spec"]["template"]["spec"]["containers"][0]["env"]}

    assert len(secret_settings) == len(list(all_settings())) - len(READ_BY_TEMPLATES)
    assert {setting.variable for setting in all_settings() if setting.key in secret_settings} <= environment


def test_the_template_refuses_the_secrets_that_the_settings_have(tmp_path: Path) -> None:
    """Without the schema too: a copy of the chart that has none."""
    copy = tmp_path / "onceflow"
    shutil.copytree(CHART, copy)
    (copy / "values.schema.json").unlink()
    secrets = [setting.key for setting in all_settings() if is_secret(setting)]
    assert len(secrets) >= 6

    with helm_python.Chart.load(copy) as chart:
        for key in secrets:
            with pytest.raises(helm_python.HelmRenderError, match=f"settings.{key} is a secret"):
                chart.render(merged(APP, {"settings": nest(key, "hunter2")}))
            chart.render(merged(APP, {"settings": nest(key, "${HUNTER}")}))


def test_secrets_may_be_variables_and_a_key_a_path() -> None:
    render({"settings": {"postgres": {"dsn": "${DSN}"}, "kafka": {"ssl": {"key": "/etc/kafka/tls.key"}}}})

    for refused in ("${DSN:-postgresql://shop:hunter2@db/shop}", "postgresql://shop:hunter2@db/shop", " ${DSN}"):
        with pytest.raises(helm_python.HelmValuesError):
            render({"settings": {"postgres": {"dsn": refused}}})
