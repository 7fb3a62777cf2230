"""The pretend broker: librdkafka's mock cluster, inside the library that the real client already loads.

It speaks Kafka's protocol on 127.0.0.1, so the real `Consumer` and `Producer` talk to it; nothing imitates a client.
`processor demo`, the testing kit and most tests use it. It starts in milliseconds, fails on command, and forgets
everything when it ends.

    with MockCluster() as cluster:
        cluster.create_topic("orders", partitions=4)
        Producer({"bootstrap.servers": cluster.bootstrap_servers})

What it does not do, and real Kafka does (tests/conformance has the table): transactions that abort (their records are
delivered), CreateTopics and other admin requests, timestamps for `offsets_for_times`, fencing of static members and
producers, SASL and TLS, durability. A partition keeps 5 MiB; the oldest records beyond are dropped silently.

librdkafka calls this interface experimental. It is the one that its own tests use, and it is reached by name:
`MockCluster` says clearly when a release has taken something away.
"""

import ctypes
import ctypes.util
import importlib.util
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_int16, c_int32, c_int64, c_size_t, c_void_p
from datetime import timedelta
from enum import IntEnum
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Self

__all__ = ["Api", "MockCluster", "MockClusterError"]

_PRODUCER = 0
_ERROR_BYTES = 512


class MockClusterError(Exception):
    """The mock cluster refused what it was asked, or this build of librdkafka has none."""


class Api(IntEnum):
    """Kinds of requests, to make fail or to count. Numbers of Kafka's protocol."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    INIT_PRODUCER_ID = 22
    OFFSET_FOR_LEADER_EPOCH = 23
    ADD_PARTITIONS_TO_TXN = 24
    END_TXN = 26
    CONSUMER_GROUP_HEARTBEAT = 68


class MockCluster:
    """A Kafka cluster in this process, from construction until `close`.

    Its thread belongs to librdkafka: no Python runs in it, and it takes part of a core while data flows. Tests that
    measure run it in a process of its own. Methods may be called from any thread; each takes effect before it returns.

    Args:
        brokers: How many brokers; their IDs count from 1. All partitions of a topic are spread over them.

    Raises:
        MockClusterError: The librdkafka of this installation has no mock cluster.
    """

    def __init__(self, brokers: int = 1) -> None:
        self._lib = _library()
        self._lock = RLock()
        conf = self._lib.rd_kafka_conf_new()
        self._lib.rd_kafka_conf_set_log_cb(conf, None)  # it would complain that it has no brokers itself
        message = ctypes.create_string_buffer(_ERROR_BYTES)
        self._client: int | None = self._lib.rd_kafka_new(_PRODUCER, conf, message, _ERROR_BYTES)
        if not self._client:
            raise MockClusterError(f"librdkafka: {message.value.decode()}")
        self._cluster: int | None = self._lib.rd_kafka_mock_cluster_new(self._client, brokers)
        if not self._cluster:
            self._lib.rd_kafka_destroy(self._client)
            raise MockClusterError(f"librdkafka: no mock cluster of {brokers} brokers")
        bootstraps: bytes = self._lib.rd_kafka_mock_cluster_bootstraps(self._cluster)
        self.bootstrap_servers = bootstraps.decode()
        self.brokers = brokers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the cluster; clients see their connections cut. May be called again."""
        if not hasattr(self, "_lock"):
            return  # the constructor did not get that far
        with self._lock:
            cluster, self._cluster = getattr(self, "_cluster", None), None
            client, self._client = getattr(self, "_client", None), None
            if cluster:
                self._lib.rd_kafka_mock_cluster_destroy(cluster)
                self._lib.rd_kafka_destroy(client)

    # -- topics

    def create_topic(self, name: str, partitions: int = 1, *, replication: int = 1) -> None:
        """Create a topic. (A client that asks for an unknown one creates it too, with 4 partitions.)"""
        self._call("rd_kafka_mock_topic_create", name.encode(), partitions, replication)

    def delete_topic(self, name: str) -> None:
        """Delete a topic with its records; one created again under the name has another topic ID and starts at 0."""
        self._call("rd_kafka_mock_topic_delete", name.encode())

    def delete_records(self, topic: str, partition: int, *, before: int) -> None:
        """Retention: records below an offset are gone, and it is the new start of the log."""
        self._call("rd_kafka_mock_partition_delete_records", topic.encode(), partition, before)

    def set_topic_error(self, topic: str, code: int) -> None:
        """What metadata says of a topic from now on, such as `KafkaError.TOPIC_AUTHORIZATION_FAILED`; 0 ends it."""
        self._call("rd_kafka_mock_topic_set_error", topic.encode(), code)

    def set_leader(self, topic: str, partition: int, broker: int) -> None:
        """Move a partition to another broker; -1 leaves it without a leader."""
        self._call("rd_kafka_mock_partition_set_leader", topic.encode(), partition, broker)

    # -- faults

    def push_errors(self, api: Api, *codes: int) -> None:
        """Answer the next requests of a kind with these errors, one each, then normally.

        Codes are `KafkaError`'s; `KafkaError._TRANSPORT` cuts the connection instead of answering.
        """
        self._call("rd_kafka_mock_push_request_errors_array", api, len(codes), (c_int * len(codes))(*codes))

    def clear_errors(self, api: Api) -> None:
        """Forget what `push_errors` left."""
        self._call("rd_kafka_mock_clear_request_errors", api)

    def broker_down(self, broker: int = -1) -> None:
        """Cut a broker's connections and refuse new ones; -1: every broker. Leaders and coordinators stay its."""
        self._call("rd_kafka_mock_broker_set_down", broker)

    def broker_up(self, broker: int = -1) -> None:
        """Let clients connect again."""
        self._call("rd_kafka_mock_broker_set_up", broker)

    def set_rtt(self, rtt: timedelta, broker: int = -1) -> None:
        """Answer every request so much later."""
        self._call("rd_kafka_mock_broker_set_rtt", broker, _milliseconds(rtt))

    # -- groups

    def set_coordinator(self, group: str, broker: int) -> None:
        """Make a broker the coordinator of a group; one that does not exist leaves the group without."""
        self._call("rd_kafka_mock_coordinator_set", b"group", group.encode(), broker)

    def set_transaction_coordinator(self, transactional_id: str, broker: int) -> None:
        """Make a broker the coordinator of a transactional producer."""
        self._call("rd_kafka_mock_coordinator_set", b"transaction", transactional_id.encode(), broker)

    def set_initial_rebalance_delay(self, delay: timedelta) -> None:
        """How long a classic group waits for further members when the first one joins; 3 s if not set."""
        self._call("rd_kafka_mock_group_initial_rebalance_delay_ms", _milliseconds(delay))

    def set_heartbeat_interval(self, interval: timedelta) -> None:
        """Of KIP-848 groups, which learn of their assignments by it: 50 ms makes rebalances quick; 3 s if not set."""
        self._call("rd_kafka_mock_set_group_consumer_heartbeat_interval_ms", _milliseconds(interval))

    def set_session_timeout(self, timeout: timedelta) -> None:
        """Of KIP-848 groups: the silence after which a member is thrown out; 30 s if not set."""
        self._call("rd_kafka_mock_set_group_consumer_session_timeout_ms", _milliseconds(timeout))

    # -- what clients asked

    def track_requests(self) -> None:
        """Remember requests from now on, for `requests`."""
        self._call("rd_kafka_mock_start_request_tracking")

    def requests(self) -> list[int]:
        """The kinds of all requests tracked so far, in order of their arrival: compare with `Api`."""
        with self._lock:
            count = c_size_t()
            found = self._lib.rd_kafka_mock_get_requests(self._alive(), ctypes.byref(count))
            try:
                return [self._lib.rd_kafka_mock_request_api_key(found[i]) for i in range(count.value)]
            finally:
                self._lib.rd_kafka_mock_request_destroy_array(found, count)

    def _call(self, function: str, *arguments: object) -> None:
        with self._lock:
            code = getattr(self._lib, function)(self._alive(), *arguments)
            if code:
                name: bytes = self._lib.rd_kafka_err2name(code)
                raise MockClusterError(f"{function}{arguments}: {name.decode()}")

    def _alive(self) -> int:
        if not self._cluster:
            raise MockClusterError("the mock cluster is closed")
        return self._cluster


# -- the library

_FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "rd_kafka_conf_new": (c_void_p, []),
    "rd_kafka_conf_set_log_cb": (None, [c_void_p, c_void_p]),
    "rd_kafka_new": (c_void_p, [c_int, c_void_p, c_char_p, c_size_t]),
    "rd_kafka_destroy": (None, [c_void_p]),
    "rd_kafka_err2name": (c_char_p, [c_int]),
    "rd_kafka_mock_cluster_new": (c_void_p, [c_void_p, c_int]),
    "rd_kafka_mock_cluster_destroy": (None, [c_void_p]),
    "rd_kafka_mock_cluster_bootstraps": (c_char_p, [c_void_p]),
    "rd_kafka_mock_topic_create": (c_int, [c_void_p, c_char_p, c_int, c_int]),
    "rd_kafka_mock_topic_delete": (c_int, [c_void_p, c_char_p]),
    "rd_kafka_mock_topic_set_error": (None, [c_void_p, c_char_p, c_int]),
    "rd_kafka_mock_partition_delete_records": (c_int, [c_void_p, c_char_p, c_int32, c_int64]),
    "rd_kafka_mock_partition_set_leader": (c_int, [c_void_p, c_char_p, c_int32, c_int32]),
    "rd_kafka_mock_push_request_errors_array": (None, [c_void_p, c_int16, c_size_t, c_void_p]),
    "rd_kafka_mock_clear_request_errors": (None, [c_void_p, c_int16]),
    "rd_kafka_mock_broker_set_down": (c_int, [c_void_p, c_int32]),
    "rd_kafka_mock_broker_set_up": (c_int, [c_void_p, c_int32]),
    "rd_kafka_mock_broker_set_rtt": (c_int, [c_void_p, c_int32, c_int]),
    "rd_kafka_mock_coordinator_set": (c_int, [c_void_p, c_char_p, c_char_p, c_int32]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [c_void_p, c_int32]),
    "rd_kafka_mock_set_group_consumer_heartbeat_interval_ms": (None, [c_void_p, c_int]),
    "rd_kafka_mock_set_group_consumer_session_timeout_ms": (None, [c_void_p, c_int]),
    "rd_kafka_mock_start_request_tracking": (None, [c_void_p]),
    "rd_kafka_mock_get_requests": (ctypes.POINTER(c_void_p), [c_void_p, c_void_p]),
    "rd_kafka_mock_request_api_key": (c_int16, [c_void_p]),
    "rd_kafka_mock_request_destroy_array": (None, [c_void_p, c_size_t]),
}
"""Result and parameters of each function, as rdkafka_mock.h declares them; without them ctypes cuts pointers to 32 bits."""


@cache
def _library() -> ctypes.CDLL:
    """The librdkafka that the client loads, so that there is one copy, with its functions declared."""
    path = _library_path()
    try:
        lib = ctypes.CDLL(path)
        for name, (result, parameters) in _FUNCTIONS.items():
            function: Callable[..., object] = getattr(lib, name)
            function.restype = result  # type: ignore[attr-defined]  # a ctypes function pointer
            function.argtypes = parameters  # type: ignore[attr-defined]
    except (OSError, AttributeError) as error:
        raise MockClusterError(f"{path}: its mock cluster cannot be used: {error}") from error
    return lib


def _library_path() -> str:
    """Where the client's wheel keeps its librdkafka; a client built from source uses the system's."""
    spec = importlib.util.find_spec("confluent_kafka")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    bundled = [
        *package.parent.glob("confluent_kafka.libs/librdkafka-*"),  # Linux
        *package.glob(".dylibs/librdkafka*"),  # macOS
    ]
    found = str(bundled[0]) if bundled else ctypes.util.find_library("rdkafka")
    if not found:
        raise MockClusterError(f"{package}: no librdkafka found beside it, and none on this system")
    return found


def _milliseconds(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)
