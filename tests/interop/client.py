# pyright: basic, reportMissingImports=false
"""Runs in the environment of `dbos==2.10.0`: one call of its client for each line read, one answer for each.

Imports nothing of this project. The serializer is the one of the guide (examples/dbos_serializer.py).
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from dbos import DBOSClient
from dbos._workflow_commands import delete_workflow

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from dbos_serializer import JsonSerializer

clients = {}


def connect(url):
    close()
    clients["it"] = DBOSClient(system_database_url=url, serializer=JsonSerializer())


def close():
    if "it" in clients:
        clients.pop("it").destroy()


def enqueue(workflow, queue, args, **options):
    names = {"id": "workflow_id", "deduplication": "deduplication_id", "timeout": "workflow_timeout"}
    given = {names.get(name, name): value for name, value in options.items()}
    handle = clients["it"].enqueue({"workflow_name": workflow, "queue_name": queue, **given}, *args)
    return handle.get_workflow_id()


def result(workflow_id):
    return clients["it"].retrieve_workflow(workflow_id).get_result(polling_interval_sec=0.05)


def status(workflow_id):
    found = clients["it"].retrieve_workflow(workflow_id).get_status()
    return {
        "id": found.workflow_id,
        "status": found.status,
        "name": found.name,
        "input": None if found.input is None else found.input["args"],
        "output": found.output,
        "forked_from": found.forked_from,
    }


def listed(**filters):
    names = {"prefix": "workflow_id_prefix"}
    found = clients["it"].list_workflows(**{names.get(name, name): value for name, value in filters.items()})
    return [each.workflow_id for each in found]


def steps(workflow_id):
    found = clients["it"].list_workflow_steps(workflow_id)
    return [
        [each["function_id"], each["function_name"], each["output"], each["error"] and str(each["error"])]
        for each in found
    ]


def send(workflow_id, message, topic=None, key=None):
    clients["it"].send(workflow_id, message, topic, key)


def event(workflow_id, key):
    return clients["it"].get_event(workflow_id, key, 5)


def stream(workflow_id, key):
    return list(clients["it"].read_stream(workflow_id, key))


def cancel(workflow_id):
    clients["it"].cancel_workflow(workflow_id)


def resume(workflow_id):
    clients["it"].resume_workflow(workflow_id)


def fork(workflow_id, step):
    return clients["it"].fork_workflow(workflow_id, step).get_workflow_id()


def delete(workflow_id, children):
    """Their client has no such call: this is what `DBOS.delete_workflow` does, on the client's connection."""
    delete_workflow(SimpleNamespace(_sys_db=clients["it"]._sys_db, _app_db=None), workflow_id, delete_children=children)


calls = {
    name: call
    for name, call in globals().items()
    if callable(call) and getattr(call, "__module__", "") == "__main__" and name != "JsonSerializer"
}
for line in sys.stdin:
    asked = json.loads(line)
    try:
        answer = {"value": calls[asked["call"]](*asked["args"], **asked["options"])}
    except Exception as error:  # noqa: BLE001  # whatever the client raises is its answer
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), flush=True)
