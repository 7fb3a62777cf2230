# pyright: basic, reportMissingImports=false
"""For programs with the official `dbos` client, which pickles unless it is told not to (docs/guides/dbos.md)."""

import json
from typing import Any

from dbos import Serializer


class JsonSerializer(Serializer):
    """JSON, which every program can read. The error of a workflow is raised as a `RuntimeError` with its class in front."""

    def serialize(self, data: Any) -> str:
        return json.dumps(data)

    def deserialize(self, serialized_data: str) -> Any:
        value = json.loads(serialized_data)
        if isinstance(value, dict) and {"name", "message", "type"} <= value.keys():
            return RuntimeError(f"{value['name']}: {value['message']}")
        return value
