"""values.schema.json: what may stand in the chart's values. No object anywhere takes a key that it does not name.

    the chart's own values     written here
    settings                   the processor's own schema, less what would put a secret in a ConfigMap
    parts of pods and policies Kubernetes' own definitions of the newest version, less their descriptions

So a misspelt `resoures`, `settings.kafka.gruop` or `tolerations[0].effekt` is refused before anything is rendered.
"""

import json
import re
from importlib.resources import files
from typing import Any, cast

import yaml

from deploy import CHART
from processor.loading import all_settings
from processor.reference import settings_schema
from processor.secrecy import PASSWORD_IN_COMMAND, PASSWORD_IN_URL, SECRET_PROPERTIES

Schema = dict[str, Any]

KUBERNETES = "v1.37.0-local-strict"
"""Definitions of this version: the newest that kubernetes-validate has."""

DURATION = r"^([0-9]+([.][0-9]+)?\s*(us|ms|s|min|m|h|d)\s*)+$"
"""As settings write it, and as the templates read it."""
VARIABLE = r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$"
"""A value that stands elsewhere, and nothing around it or in place of it."""
# Letter by letter: editors read this file with JavaScript's expressions, which know no (?i).
LIKE_A_SECRET = "|".join(
    "".join(f"[{each.upper()}{each}]" if each.isalpha() else each for each in word) for word in SECRET_PROPERTIES
)
"""Properties that `kafka.extra` and `outbox.extra` may not have."""
PROMETHEUS_DURATION = r"^([0-9]+(ms|s|m|h|d|w|y))+$"
NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
"""Of a Kubernetes object."""


def text(pattern: str | None = None, *choices: str) -> Schema:
    """A string: any, one that matches, or one of a few."""
    return {"type": "string"} | ({"pattern": pattern} if pattern else {}) | ({"enum": list(choices)} if choices else {})


def one_of(*choices: str) -> Schema:
    """One of a few strings."""
    return text(None, *choices)


def number(minimum: int, maximum: int | None = None) -> Schema:
    """An integer within bounds."""
    return {"type": "integer", "minimum": minimum} | ({} if maximum is None else {"maximum": maximum})


def flag() -> Schema:
    """True or false."""
    return {"type": "boolean"}


def items(of: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": of}


def mapping(of: Schema) -> Schema:
    """Keys of the user's choice: labels, annotations, a selector."""
    return {"type": "object", "additionalProperties": of}


def section(*required: str, **properties: Schema) -> Schema:
    """An object with these keys and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties} | (
        {"required": list(required)} if required else {}
    )


def kubernetes(name: str) -> Schema:
    """A definition of Kubernetes', put under `$defs` when the schema is finished."""
    full = name if name.startswith("io.k8s.") else f"io.k8s.api.core.v1.{name}"
    return {"$ref": f"#/$defs/{full}"}


STRINGS = mapping({"type": "string"})
LABELS: Schema = {
    "type": "object",
    "additionalProperties": False,
    "patternProperties": {
        r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$": text(
            r"^(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?$"
        )
    },
}
"""Names and values as Kubernetes takes them for labels."""
COUNT_OR_SHARE: Schema = {"anyOf": [number(0), text(r"^([1-9]?[0-9]|100)%$")]}
READ_BY_TEMPLATES = frozenset(
    {"executor.drain", "http.enabled", "http.host", "http.port", "web.enabled", "web.host", "web.port"}
)
"""Settings that decide what is rendered (grace period, probes, ports): what they are in a Secret nobody could compare."""
SECRET_KEY = section("secret", "key", secret=text(NAME), key=text("^[-._a-zA-Z0-9]+$"))


def schema() -> Schema:
    """The whole of it."""
    alerts = alert_names()
    secret_settings = section(
        **{setting.key: SECRET_KEY for setting in all_settings() if setting.key not in READ_BY_TEMPLATES}
    )
    top = section(
        app=text(r"^([A-Za-z_][A-Za-z0-9_.]*(:[A-Za-z_][A-Za-z0-9_]*)?)?$"),
        image=section(
            repository=text(r"^\S+$"),
            tag=text(r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"),
            digest=text(r"^(sha256:[0-9a-f]{64})?$"),
            pullPolicy=one_of("Always", "IfNotPresent", "Never"),
        ),
        imagePullSecrets=items(kubernetes("LocalObjectReference")),
        fullnameOverride=text(r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$"),
        commonLabels=LABELS,
        settings=settings(),
        secretSettings=secret_settings,
        extraEnv=items(kubernetes("EnvVar")),
        extraEnvFrom=items(kubernetes("EnvFromSource")),
        kind=one_of("Deployment", "StatefulSet"),
        replicas=number(0, 1000),
        processes=number(1, 256),
        staticMembership=flag(),
        strategy=section(maxUnavailable=COUNT_OR_SHARE, maxSurge=COUNT_OR_SHARE),
        minReadySeconds=number(0, 600),
        terminationGracePeriodSeconds=number(11, 86_400),
        resources=kubernetes("ResourceRequirements"),
        probes=section(liveness=probe(), readiness=probe(), startup=probe()),
        initContainers=items(kubernetes("Container")),
        sidecars=items(kubernetes("Container")),
        extraVolumes=items(kubernetes("Volume")),
        extraVolumeMounts=items(kubernetes("VolumeMount")),
        podLabels=LABELS,
        podAnnotations=STRINGS,
        topologySpread=section(
            zone=one_of("ScheduleAnyway", "DoNotSchedule", "Off"), node=one_of("ScheduleAnyway", "DoNotSchedule", "Off")
        ),
        topologySpreadConstraints=items(kubernetes("TopologySpreadConstraint")),
        nodeSelector=STRINGS,
        tolerations=items(kubernetes("Toleration")),
        affinity=kubernetes("Affinity"),
        priorityClassName=text(),
        podSecurityContext=kubernetes("PodSecurityContext"),
        securityContext=kubernetes("SecurityContext"),
        serviceAccount=section(create=flag(), name=text(), annotations=STRINGS, automountToken=flag()),
        networkPolicy=section(
            enabled=flag(),
            metricsFrom=items(kubernetes("io.k8s.api.networking.v1.NetworkPolicyPeer")),
            webFrom=items(kubernetes("io.k8s.api.networking.v1.NetworkPolicyPeer")),
            dns=flag(),
            postgres=peer(),
            kafka=peer(),
            egress=items(kubernetes("io.k8s.api.networking.v1.NetworkPolicyEgressRule")),
        ),
        migration=section(
            enabled=flag(),
            phase=one_of("auto", "all", "pre"),
            afterUpgrade=flag(),
            secretSettings=secret_settings,
            backoffLimit=number(0, 100),
            activeDeadlineSeconds=number(1),
            resources=kubernetes("ResourceRequirements"),
        ),
        podDisruptionBudget=section(enabled=flag(), maxUnavailable=COUNT_OR_SHARE),
        hpa=section(
            enabled=flag(),
            minReplicas=number(1),
            maxReplicas=number(1),
            lag=section(metric=text(r"^\S+$"), selector=STRINGS, perReplica=number(1)),
            metrics=items(kubernetes("io.k8s.api.autoscaling.v2.MetricSpec")),
            scaleDownStabilizationSeconds=number(0, 3600),
        ),
        keda=keda(),
        podMonitor=monitor(),
        serviceMonitor=monitor(),
        prometheusRule=section(
            enabled=flag(),
            labels=STRINGS,
            alertLabels=STRINGS,
            runbookUrl=text(r"^(https?://\S+)?$"),
            disabled=items(one_of(*alerts)),
            overrides=section(
                **{
                    name: section(**{"for": text(PROMETHEUS_DURATION), "severity": text(r"^\S+$"), "expr": text(r"\S")})
                    for name in alerts
                }
            ),
        ),
        dashboards=section(enabled=flag(), labels=STRINGS, annotations=STRINGS, namespace=text()),
        tests=section(enabled=flag()),
    )
    # Helm sets `global` in every chart that is part of another one.
    top["properties"]["global"] = {"type": "object"}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Values of the chart onceflow"}
    return head | top | {"$defs": definitions(top)}


def probe() -> Schema:
    """When a probe asks, and when it gives up; what it asks is the chart's."""
    return section(
        initialDelaySeconds=number(0), periodSeconds=number(1), timeoutSeconds=number(1), failureThreshold=number(1)
    )


def peer() -> Schema:
    """Somebody whom pods may call."""
    return section(ports=items(number(1, 65_535)), to=items(kubernetes("io.k8s.api.networking.v1.NetworkPolicyPeer")))


def monitor() -> Schema:
    """A PodMonitor or ServiceMonitor; its relabelings are the Prometheus operator's."""
    words = {"sourceLabels": items(text()), "separator": text(), "targetLabel": text(), "regex": text()}
    relabeling = section(**words, modulus=number(1), replacement=text(), action=text())
    return section(
        enabled=flag(),
        interval=text(PROMETHEUS_DURATION),
        scrapeTimeout=text(PROMETHEUS_DURATION),
        labels=STRINGS,
        metricRelabelings=items(relabeling),
    )


def keda() -> Schema:
    """A ScaledObject; a trigger's metadata are the trigger's own."""
    trigger = section(
        "type",
        "metadata",
        type=text(r"^\S+$"),
        name=text(),
        metricType=one_of("AverageValue", "Value", "Utilization"),
        useCachedMetrics=flag(),
        metadata=STRINGS,
        authenticationRef=section("name", name=text(NAME), kind=text()),
    )
    reference = section("parameter", "name", "key", parameter=text(), name=text(NAME), key=text())
    return section(
        enabled=flag(),
        minReplicas=number(0),
        maxReplicas=number(1),
        # Kafka's own rule for a name: a pattern is none.
        topics=items(
            section("name", name=text("^[a-zA-Z0-9._-]+$"), lagThreshold=number(1), activationLagThreshold=number(0))
        ),
        bootstrapServers=text(),
        authentication=section(name=text(), secretTargetRef=items(reference)),
        triggers=items(trigger),
        pollingIntervalSeconds=number(1),
        cooldownSeconds=number(0),
        scaleDownStabilizationSeconds=number(0, 3600),
    )


def settings() -> Schema:
    """The processor's settings as they may stand in a ConfigMap, all sections in place."""
    whole: Schema = json.loads(settings_schema())
    tree = _inlined(
        {"type": "object", "additionalProperties": False, "properties": whole["properties"]}, whole["$defs"]
    )
    assert not re.search(r'"\$ref"', json.dumps(tree)), "every section is in place"
    for section in ("http", "web"):
        _properties(tree, section)["enabled"] = flag()
        _properties(tree, section)["host"] = one_of("0.0.0.0", "::")  # noqa: S104  # called from outside of the pod
        _properties(tree, section)["port"] = number(1, 65_535)
    # Read by the template: in words, so that it can be compared with the grace period.
    _properties(tree, "executor")["drain"] = {"anyOf": [{"type": "number", "minimum": 0}, text(DURATION)]}
    # All pods read the same file: what must differ from pod to pod cannot be the same word for all.
    _properties(tree, "executor")["name"] = text(r"\$\{")
    _properties(tree, "kafka")["group_instance_id"] = text(r"\$\{")
    for section in ("kafka", "outbox"):
        _properties(tree, section)["extra"]["propertyNames"] = {"not": {"pattern": LIKE_A_SECRET}}
        _properties(tree, section)["extra"]["additionalProperties"] |= {
            "not": {"type": "string", "pattern": "PRIVATE KEY-----"}
        }
    _properties(tree, "registry")["url"] |= {"not": {"type": "string", "pattern": "://[^/,]*@"}}
    tree["properties"] |= {name: _shown(part) for name, part in tree["properties"].items()}
    return tree


def _shown(node: Any) -> Any:
    """Every text without a password in a URL, or as an option of a command."""
    if isinstance(node, list):
        return [_shown(each) for each in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    schema = {key: _shown(value) for key, value in cast("Schema", node).items()}
    if schema.get("type") == "string" and "not" not in schema and not schema.keys() & {"enum", "pattern", "const"}:
        schema["not"] = {"pattern": f"{PASSWORD_IN_URL}|{PASSWORD_IN_COMMAND}"}
    return schema


def _properties(tree: Schema, *path: str) -> Schema:
    for name in path:
        tree = tree["properties"][name]
    return tree["properties"]


def _inlined(node: Any, sections: Schema, name: str = "") -> Any:
    """With sections in the place of references to them, without annotations, secrets only as variables."""
    if isinstance(node, list):
        return [_inlined(each, sections) for each in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    schema = cast("Schema", node)
    if "$ref" in schema:
        return _inlined(sections[schema["$ref"].rpartition("/")[2]], sections)
    if '"writeOnly": true' in json.dumps(schema) and "properties" not in schema:
        # A private key may be a path.
        return {"anyOf": [text(VARIABLE), text("^/")]} if name == "key" else text(VARIABLE)
    # A setting may be called like an annotation, so names of properties are kept apart.
    return {
        key: {each: _inlined(value[each], sections, each) for each in value}
        if key == "properties"
        else _inlined(value, sections)
        for key, value in schema.items()
        if key not in ("default", "title", "examples", "description")
    }


def definitions(used: Schema) -> Schema:
    """Those of Kubernetes' definitions that are used, directly or by one another."""
    folder = files("kubernetes_validate").joinpath("kubernetes-json-schema")
    known: Schema = json.loads(folder.joinpath(KUBERNETES, "_definitions.json").read_text(encoding="utf-8"))["$defs"]
    found: Schema = {}
    todo = _references(used)
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = _bare(known[name])
            todo |= _references(found[name])
    return dict(sorted(found.items()))


def _references(node: Any) -> set[str]:
    return set(re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(node)))


def _bare(node: Any) -> Any:
    """Without descriptions and Kubernetes' own annotations."""
    if isinstance(node, list):
        return [_bare(each) for each in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    return {
        key: {each: _bare(value[each]) for each in value} if key == "properties" else _bare(value)
        for key, value in cast("Schema", node).items()
        if key != "description" and not key.startswith("x-kubernetes-")
    }


def alert_names() -> list[str]:
    """Of every alert that the chart has."""
    rules: Any = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text(encoding="utf-8"))
    return [rule["alert"] for group in rules["groups"] for rule in group["rules"]]


def page() -> str:
    """The file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
