# pyright: basic, reportMissingImports=false
"""Runs in the environment of `dbos==2.10.0`: makes a database of DBOS's own, with what a program leaves in it.

python before.py URL
"""

import os
import sys
from pathlib import Path

from dbos import DBOS, DBOSClient, Queue
from sqlalchemy import Engine, event

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from dbos_serializer import JsonSerializer


@event.listens_for(Engine, "before_cursor_execute", retval=True)
def without_extension(connection, cursor, statement, parameters, *others):
    """Of its first migration: nothing uses it, and the Postgres of a wheel has no extensions."""
    return statement.replace('CREATE EXTENSION IF NOT EXISTS "uuid-ossp";', ""), parameters


url = sys.argv[1]
DBOS(config={"name": "before", "system_database_url": url, "serializer": JsonSerializer(), "run_admin_server": False})
elsewhere = Queue("elsewhere")


@DBOS.step()
def charge(order_id):
    return f"receipt {order_id}"


@DBOS.workflow()
def pay(order, express=False):
    DBOS.set_event("state", "paid")
    DBOS.write_stream("log", order)
    return charge(order["order_id"])


@DBOS.workflow()
def wait():
    return DBOS.recv("never", timeout_seconds=600)


DBOS.listen_queues([elsewhere])
DBOS.launch()
ended = DBOS.start_workflow(pay, {"order_id": "o-1", "amount": 1})
ended.get_result()
under_way = DBOS.start_workflow(wait)
clients = [DBOSClient(system_database_url=url, serializer=JsonSerializer()), DBOSClient(system_database_url=url)]
order = {"order_id": "o-2", "amount": 2}
waits, pickled = [
    client.enqueue({"workflow_name": "pay", "queue_name": "mails", "app_version": "old"}, order) for client in clients
]
print("\n", ",".join(each.get_workflow_id() for each in (ended, under_way, waits, pickled)), flush=True)
os._exit(0)  # as a process that dies: a workflow waits
