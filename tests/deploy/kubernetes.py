"""Kubernetes' own schemas, version by version, strict: no unknown fields."""

import json
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.deploy.chart import Object

NEWEST = ("1.37", "1.36", "1.35")
OLDEST = "1.31"
"""What Chart.yaml's kubeVersion begins with."""
CUSTOM = ("PodMonitor", "ServiceMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication")
"""Kinds that others define: `make chart-server` installs their definitions and lets the API server look."""


def problems(each: Object, version: str) -> list[str]:
    """What that version of Kubernetes would say about an object."""
    if each["kind"] in CUSTOM:
        return []
    group, _, api_version = each["apiVersion"].rpartition("/")
    prefix = f"{group.partition('.')[0]}-" if group else ""
    validator: Any = _validator(version, f"{each['kind'].lower()}-{prefix}{api_version}.json")
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(each)]


@cache
def _validator(version: str, file: str) -> Draft202012Validator:
    schema = json.loads((_folder(version) / file).read_text(encoding="utf-8"))
    return Draft202012Validator(schema, registry=_registry(version))


@cache
def _registry(version: str) -> Any:
    definitions = json.loads((_folder(version) / "_definitions.json").read_text(encoding="utf-8"))
    resource: Any = Resource.from_contents(definitions)
    return resource @ Registry[Any]()


def _folder(version: str) -> Traversable:
    return files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
