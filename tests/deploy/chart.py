"""The chart as Helm's own engine renders it, and the options with which it is tried."""

import json
from copy import deepcopy
from functools import cache
from typing import Any, cast

import helm_python
import yaml

from deploy import CHART

Values = dict[str, Any]
Object = dict[str, Any]

APP: Values = {"app": "shop.app:app"}
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
RELEASE, NAMESPACE = "shop", "prod"

OPTIONS: dict[str, Values] = {
    "image by digest": {"image": {"repository": "registry.example/shop", "digest": "sha256:" + "0" * 64}},
    "private registry": {"imagePullSecrets": [{"name": "registry"}]},
    "other name": {"fullnameOverride": "orders"},
    "labels": {"commonLabels": {"team": "shop"}, "podLabels": {"tier": "batch"}, "podAnnotations": {"a/b": "c"}},
    "settings": {
        "settings": {
            "kafka": {"bootstrap_servers": "broker:9092", "group": "shop", "extra": {"fetch.min.bytes": 1_000_000}},
            "executor": {"in_flight_max": 1_000_000, "drain": "20s"},
            "migrate": ["python -m shop.migrate"],
        }
    },
    "secrets": {
        "secretSettings": {
            "postgres.dsn": {"secret": "shop-postgres", "key": "dsn"},
            "kafka.sasl.password": {"secret": "shop-kafka", "key": "password"},
        },
        "migration": {"secretSettings": {"postgres.dsn": {"secret": "shop-owner", "key": "uri"}}},
    },
    "environment": {
        "extraEnv": [{"name": "PGHOST", "value": "db"}],
        "extraEnvFrom": [{"secretRef": {"name": "shop-env"}}],
    },
    "stateful": {"kind": "StatefulSet"},
    "static members": {"kind": "StatefulSet", "staticMembership": True},
    "several processes": {"processes": 4},
    "longer drain": {"settings": {"executor": {"drain": "2m"}}, "terminationGracePeriodSeconds": 150},
    "other port": {"settings": {"http": {"port": 8080}}},
    "no status server": {"settings": {"http": {"enabled": False}}},
    "certificates": {
        "extraVolumes": [{"name": "ca", "secret": {"secretName": "kafka-ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/kafka", "readOnly": True}],
        "settings": {"kafka": {"security_protocol": "SSL", "ssl": {"ca": "/etc/kafka/ca.crt"}}},
    },
    "more containers": {
        "initContainers": [{"name": "wait", "image": "busybox:1", "command": ["true"]}],
        "sidecars": [{"name": "proxy", "image": "proxy:1"}],
    },
    "places": {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "batch", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "high",
        "topologySpread": {"zone": "DoNotSchedule", "node": "Off"},
    },
    "own spread": {
        "topologySpreadConstraints": [
            {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
        ]
    },
    "no spread": {"topologySpread": {"zone": "Off", "node": "Off"}},
    "given account": {"serviceAccount": {"create": False, "name": "shop"}},
    "account with identity": {"serviceAccount": {"annotations": {"iam/role": "shop"}, "automountToken": True}},
    "network policy": {
        "networkPolicy": {
            "enabled": True,
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "postgres": {"ports": [5432, 6432], "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
            "egress": [{"ports": [{"port": 443, "protocol": "TCP"}]}],
        }
    },
    "open network policy": {"networkPolicy": {"enabled": True}},
    "no migration": {"migration": {"enabled": False}},
    "migration after upgrades": {"migration": {"phase": "pre", "afterUpgrade": True}},
    "no disruption budget": {"podDisruptionBudget": {"enabled": False}},
    "hpa": {
        "hpa": {
            "enabled": True,
            "lag": {"selector": {"group": "shop"}, "perReplica": 5_000_000},
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
                }
            ],
        }
    },
    "keda": {
        "settings": {"kafka": {"group": "shop", "bootstrap_servers": "broker:9092"}},
        "keda": {
            "enabled": True,
            "topics": [{"name": "orders.placed", "lagThreshold": 500}, {"name": "refunds"}],
            "triggers": [{"type": "cron", "metadata": {"timezone": "UTC", "start": "0 8 * * *", "end": "0 9 * * *"}}],
        },
    },
    "keda, secured": {
        "settings": {
            "kafka": {
                "group": "shop",
                "bootstrap_servers": "broker:9093",
                "security_protocol": "SASL_SSL",
                "sasl": {"mechanism": "SCRAM-SHA-512"},
            }
        },
        "keda": {
            "enabled": True,
            "minReplicas": 0,
            "topics": [{"name": "orders.placed"}],
            "authentication": {"secretTargetRef": [{"parameter": "password", "name": "shop-kafka", "key": "password"}]},
        },
    },
    "pod monitor": {
        "podMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "metricRelabelings": [{"action": "drop", "sourceLabels": ["__name__"], "regex": "python_.*"}],
        }
    },
    "service monitor": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "alerts": {
        "podMonitor": {"enabled": True},
        "prometheusRule": {
            "enabled": True,
            "alertLabels": {"team": "shop"},
            "runbookUrl": "https://example.org/runbooks/",
            "disabled": ["OnceflowNoProcess"],
            "overrides": {"OnceflowRecordStuck": {"for": "30m", "severity": "critical"}},
        },
    },
    "dashboards": {"dashboards": {"enabled": True, "namespace": "grafana", "annotations": {"folder": "onceflow"}}},
    "web": {
        "settings": {"web": {"enabled": True, "port": 8081, "access": {"on-call": "operator"}}},
        "secretSettings": {"web.tokens": {"secret": "shop-web", "key": "tokens"}},
        "networkPolicy": {"webFrom": [{"namespaceSelector": {"matchLabels": {"name": "gateway"}}}]},
    },
    "no tests": {"tests": {"enabled": False}},
}
"""Each on its own is a way somebody installs it; what is off in one is on in another."""

EVERYTHING = (
    "private registry",
    "labels",
    "settings",
    "secrets",
    "environment",
    "static members",
    "several processes",
    "certificates",
    "more containers",
    "places",
    "account with identity",
    "network policy",
    "migration after upgrades",
    "keda",
    "pod monitor",
    "alerts",
    "dashboards",
    "web",
)
"""Options that go together, as many as there are."""


def merged(*values: Values) -> Values:
    """Values over one another, as several files given to Helm."""
    result: Values = {}
    for each in values:
        for key, value in each.items():
            known = result.get(key)
            if isinstance(known, dict) and isinstance(value, dict):
                result[key] = merged(cast("Values", known), cast("Values", value))
            else:
                result[key] = deepcopy(value)
    return result


def everything() -> Values:
    """One release with all of `EVERYTHING`."""
    return merged(APP, *(OPTIONS[name] for name in EVERYTHING))


@cache
def chart() -> helm_python.Chart:
    """Loaded once: it does not change while tests run."""
    return helm_python.Chart.load(CHART)


def render(*values: Values, upgrade: bool = False, release: str = RELEASE) -> list[Object]:
    """Every object of an installation or upgrade, hooks too. Raises Helm's own errors."""
    return _rendered(json.dumps(merged(APP, *values)), upgrade, release)[0]


def notes(*values: Values) -> str:
    """What Helm prints at the end."""
    return _rendered(json.dumps(merged(APP, *values)), False, RELEASE)[1]


@cache
def _rendered(values: str, upgrade: bool, release: str) -> tuple[list[Object], str]:
    files = chart().render(
        json.loads(values),
        name=release,
        namespace=NAMESPACE,
        is_install=not upgrade,
        is_upgrade=upgrade,
        revision=2 if upgrade else 1,
    )
    manifests = {name: text for name, text in files.items() if not name.endswith(".txt")}
    (said,) = files.keys() - manifests.keys()
    return [each for text in manifests.values() for each in yaml.load_all(text, LOADER) if each], files[said]


def of_kind(kind: str, objects: list[Object]) -> list[Object]:
    """Those of one kind."""
    return [each for each in objects if each["kind"] == kind]


def named(kind: str, name: str, objects: list[Object]) -> Object:
    """The one of a kind and name."""
    (found,) = [each for each in of_kind(kind, objects) if each["metadata"]["name"] == name]
    return found


def workload(objects: list[Object]) -> Object:
    """The Deployment or StatefulSet."""
    (found,) = of_kind("Deployment", objects) + of_kind("StatefulSet", objects)
    return found


def pods(objects: list[Object]) -> list[Object]:
    """Every pod, or what pods are made from: of the workload, the Jobs, the test."""
    made = [each["spec"]["template"] for each in objects if each["kind"] in ("Deployment", "StatefulSet", "Job")]
    return made + of_kind("Pod", objects)


def is_hook(each: Object) -> bool:
    """Whether Helm makes it at a moment of its own, and keeps no account of it."""
    return "helm.sh/hook" in each["metadata"].get("annotations", {})
