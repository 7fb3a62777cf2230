"""Settings of a deployment as the engine and the consumers get them, and snapshots as gauges."""

from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

import pytest
from pydantic import BaseModel

from consumers.assignment import State
from consumers.group import GroupSnapshot, PartitionSnapshot
from consumers.lag import LogEnd
from consumers.relay import RelaySnapshot
from consumers.settings import GroupProtocol, OnGap, OnRecreated, StartAt, StartAtTime
from engine.depths import Depth, OutboxDepth
from engine.ids import SourceRef
from engine.keeping import Keep
from engine.retention import RetentionSnapshot
from engine.snapshots import EngineSnapshot, SourceSnapshot
from engine.store.queues import QueueDepth
from processor import App, ConfigurationError, Settings, Topic
from processor.gauges import engine_gauges, group_gauges, relay_gauges, without_ages_that_nobody_knows
from processor.metric_table import METRICS
from processor.metrics import Samples
from processor.wiring import (
    SENT_FROM_OUTSIDE,
    engine_settings,
    group_name,
    group_settings,
    relay_settings,
    subscription,
)


class Order(BaseModel):
    order_id: str


def settings(**sections: dict[str, Any]) -> Settings:
    return Settings.model_validate(sections)


def registered(**options: Any) -> Any:
    app = App("shop")

    @app.workflow(on=Topic("orders", Order), **options)
    async def fulfil(order: Order) -> None: ...

    return app, app.workflows["fulfil"]


def test_the_engine_gets_what_the_settings_say() -> None:
    made = engine_settings(
        settings(
            postgres={
                "dsn": "host=db",
                "direct_dsn": "host=direct",
                "schema": "s",
                "prepared_statements": False,
                "pool_max": 3,
                "connect_timeout": "4s",
            },
            executor={"name": "shop-0", "in_flight_max": 7, "lease": "30s", "heartbeat": "5s"},
            partitions={"parked_max": 9},
        )
    )

    assert (made.conninfo, made.direct_conninfo, made.schema, made.prepare) == ("host=db", "host=direct", "s", False)
    assert (made.pool_max, made.connect_timeout) == (3, timedelta(seconds=4))
    assert (made.executor_name, made.in_flight_max, made.parked_max) == ("shop-0", 7, 9)
    assert (made.lease, made.heartbeat) == (timedelta(seconds=30), timedelta(seconds=5))


def test_each_handler_is_kept_as_it_is_named_or_as_all_are_also_under_its_former_name() -> None:
    """P30: for ever is no time; another app's handlers, and those that are gone, only if they are named."""
    app, _ = registered(renamed_from="old")
    retention = {
        "success": "2d",
        "error": "forever",
        "handlers": {"fulfil": {"success": "Forever", "cancelled": "1h"}, "gone": {"success": "1d"}},
    }

    keep = engine_settings(settings(retention=retention), app).retention.keep
    days = timedelta(days=1)

    assert keep["fulfil"] == keep["old"] == Keep(cancelled=timedelta(hours=1), dead_letters=90 * days)
    assert keep["gone"] == Keep(success=days, cancelled=30 * days, dead_letters=90 * days)
    assert keep.keys() == {"fulfil", "old", "gone", *SENT_FROM_OUTSIDE}
    assert {name: keep[name].success for name in SENT_FROM_OUTSIDE} == dict.fromkeys(SENT_FROM_OUTSIDE, 2 * days)


@pytest.mark.parametrize(
    "of_handler, of_settings, expected", [(None, "", "shop"), (None, "orders", "orders"), ("audit", "orders", "audit")]
)
def test_a_group_is_the_handlers_own_or_the_settings_or_the_apps_name(
    of_handler: str | None, of_settings: str, expected: str
) -> None:
    app, registration = registered(group=of_handler)

    assert group_name(registration, app, settings(kafka={"group": of_settings})) == expected


def test_a_subscription_says_where_to_begin_and_what_to_do_about_lost_records() -> None:
    _, registration = registered(renamed_from="old")

    made = subscription(registration, settings(partitions={"start": "committed", "on_retention_loss": "skip"}))
    timed = subscription(
        registration,
        settings(
            partitions={
                "start": "timestamp",
                "start_timestamp": "2026-01-01T00:00:00Z",
                "on_topic_recreated": "new_incarnation",
            }
        ),
    )

    assert (made.topic, made.handler, made.renamed_from) == ("orders", "fulfil", "old")
    assert (made.start, made.on_gap, made.on_recreated) == (StartAt.COMMITTED, OnGap.SKIP, OnRecreated.HALT)
    assert timed.start == StartAtTime(datetime(2026, 1, 1, tzinfo=UTC))
    assert timed.on_recreated is OnRecreated.NEW_INCARNATION


def test_security_reaches_the_client_and_secrets_stay_out_of_sight() -> None:
    made = group_settings(
        settings(
            kafka={
                "group_protocol": "consumer",
                "security_protocol": "SASL_SSL",
                "ssl": {"ca": "/ca.pem", "key": "k3y", "verify_hostname": False},
                "sasl": {"mechanism": "PLAIN", "username": "me", "password": "hunter2"},
                "extra": {"fetch.min.bytes": 1000},
            }
        ),
        "shop",
    )

    assert (made.group, made.protocol) == ("shop", GroupProtocol.CONSUMER)
    assert (made.security.tls, made.security.mechanism, made.security.verify_hostname) == (True, "PLAIN", False)
    assert (made.security.password, made.security.key) == ("hunter2", "k3y")
    assert made.options["fetch.min.bytes"] == 1000
    assert "hunter2" not in repr(made)
    assert "k3y" not in repr(made)


def test_oidc_is_handed_to_the_client_as_it_calls_it() -> None:
    sasl = {
        "mechanism": "OAUTHBEARER",
        "oauthbearer_client_id": "shop",
        "oauthbearer_client_secret": "hunter2",
        "oauthbearer_token_endpoint_url": "https://sso.example/token",
    }
    made = group_settings(settings(kafka={"security_protocol": "SASL_SSL", "sasl": sasl}), "shop")

    assert made.options["sasl.oauthbearer.method"] == "oidc"
    assert made.options["sasl.oauthbearer.client.secret"] == "hunter2"
    assert "hunter2" not in repr(made)


def with_token(target: str, **sasl: Any) -> Any:
    security = {"mechanism": "OAUTHBEARER", "oauthbearer_token": target, **sasl}
    return group_settings(settings(kafka={"security_protocol": "SASL_SSL", "sasl": security}), "shop").security


def fetch_token(config: str) -> tuple[str, float]:
    return f"token for {config}", 60.0


def test_a_function_of_the_users_gives_the_tokens() -> None:
    oauth_token = with_token(f"{__name__}:fetch_token").oauth_token

    assert oauth_token("me") == ("token for me", 60.0)


@pytest.mark.parametrize(
    "target, sasl, message",
    [
        ("tokens.py", {}, "is no MODULE:function"),
        ("no_such_module:fetch", {}, "'no_such_module' cannot be imported: .*No module named"),
        ("json:fetch_token", {}, "'json' has no function 'fetch_token'"),
        ("json:loads", {"mechanism": "PLAIN"}, "nothing would ask it for tokens"),
        ("json:loads", {"oauthbearer_token_endpoint_url": "https://sso.example"}, "nothing would ask it for tokens"),
    ],
)
def test_a_token_function_that_is_not_there_is_refused_by_its_settings_name(
    target: str, sasl: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"kafka.sasl.oauthbearer_token.*{message}"):
        with_token(target, **sasl)


@pytest.mark.parametrize(
    "sasl, message",
    [
        ({"mechanism": "PLAIN"}, r"^kafka.sasl.username and kafka.sasl.password: not set, and .* PLAIN needs them"),
        ({"mechanism": "SCRAM-SHA-256", "username": "me"}, r"^kafka.sasl.password: not set, and .* needs it"),
        ({"mechanism": "SCRAM-SHA-512", "username": "", "password": "x"}, r"^kafka.sasl.username: not set"),
        ({"mechanism": "OAUTHBEARER"}, r"nothing says where tokens come from.\n.*oauthbearer_token_endpoint_url"),
        (
            {"mechanism": "OAUTHBEARER", "oauthbearer_token_endpoint_url": "https://sso", "oauthbearer_client_id": "i"},
            r"^kafka.sasl.oauthbearer_client_secret: not set",
        ),
    ],
)
def test_a_mechanism_without_what_it_needs_is_refused_by_its_settings_names(sasl: dict[str, Any], message: str) -> None:
    """Before anybody is contacted: `check` says so too."""
    with pytest.raises(ConfigurationError, match=message):
        group_settings(settings(kafka={"security_protocol": "SASL_SSL", "sasl": sasl}), "shop")


@pytest.mark.parametrize(
    "sasl, extra",
    [
        ({"mechanism": "GSSAPI"}, {}),
        ({"mechanism": "OAUTHBEARER"}, {"enable.sasl.oauthbearer.unsecure.jwt": True}),
        (
            {"mechanism": "OAUTHBEARER", "oauthbearer_token_endpoint_url": "https://sso"},
            {"sasl.oauthbearer.grant.type": "urn:ietf:params:oauth:grant-type:jwt-bearer"},
        ),
    ],
)
def test_what_a_mechanism_has_from_elsewhere_is_not_asked_for(sasl: dict[str, Any], extra: dict[str, Any]) -> None:
    group_settings(settings(kafka={"security_protocol": "SASL_SSL", "sasl": sasl, "extra": extra}), "shop")


def test_certificates_that_would_not_be_used_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="nothing would be encrypted"):
        group_settings(settings(kafka={"ssl": {"ca": "/ca.pem"}}), "shop")


@pytest.mark.parametrize(
    "sasl",
    [
        {"username": "me", "password": "hunter2"},
        {"mechanism": "PLAIN"},
        {"oauthbearer_token": "json:loads"},
        {"oauthbearer_client_secret": "hunter2"},
    ],
)
def test_credentials_that_would_not_be_used_are_refused_by_their_settings_names(sasl: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigurationError, match="kafka.sasl is set and kafka.security_protocol is PLAINTEXT"
    ) as refused:
        group_settings(settings(kafka={"sasl": sasl}), "shop")

    assert "hunter2" not in str(refused.value)


# -- gauges

REF = SourceRef("shop", "fulfil", "orders", 3)
PLACE = ("shop", "orders", "3")


def source(**changes: Any) -> SourceSnapshot:
    values: dict[str, Any] = {
        "ref": REF, "epoch": 4, "next": 100, "high": 130, "position": 140, "in_flight": 12, "backlog": 2, "parked": 1,
        "blocked_keys": 0, "held": None, "congested": False, "waits": None, "oldest_ms": 50_000,
    }  # fmt: skip
    return SourceSnapshot(**(values | changes))


def engine(*sources: SourceSnapshot, **changes: Any) -> EngineSnapshot:
    values: dict[str, Any] = {
        "executor_id": "e", "sources": sources, "in_flight": 12, "in_flight_bytes": 3_000, "backlog_bytes": 10,
        "late_runs": 0, "lease_silence_s": 3.0, "lease_is_valid": True, "pool": {"pool_size": 4, "requests_waiting": 1},
        "dead_letters": (Depth("shop", "orders", 3, 20_000), Depth("shop", "parcels", 0, None)),
        "stranded": (("remind", 2),),
        "outbox": OutboxDepth(7, 55_000, None),
        "queues": (QueueDepth("mails", 5, 2, 3, 50_000, is_paused=False, listeners=1),),
        "retention": RetentionSnapshot(late_s=7.0, vacuum_held_s=3.0, is_paused=True),
        "intake": (("commits", 0.25), ("replicas", 1.0)),
        "schedules": (("close", 3.5, False), ("open", 0.0, True)),
    }  # fmt: skip
    return EngineSnapshot(**(values | changes))


def test_open_dead_letters_are_gauges_and_their_age_is_as_of_the_scrape() -> None:
    gauges = engine_gauges(engine(), timedelta(seconds=10), now_s=60.0)

    assert gauges["dead_letters_open"] == [(("shop", "orders"), 3), (("shop", "parcels"), 0)]
    assert gauges["dead_letter_oldest_seconds"] == [(("shop", "orders"), 40.0), (("shop", "parcels"), 0.0)]
    assert gauges["workflows_stranded"] == [(("remind",), 2)]


def test_the_release_and_what_is_taken_from_the_pool_are_gauges() -> None:
    gauges = engine_gauges(engine(pool={"pool_size": 5, "pool_available": 2}), timedelta(seconds=10), now_s=60.0)

    try:
        release = version("onceflow")
    except PackageNotFoundError:  # tests run from a checkout that is not installed (test_lower_bounds.py)
        release = "unknown"
    assert gauges["build_info"] == [((release, python_version()), 1)]
    assert (gauges["pool_connections"], gauges["pool_in_use"]) == ([((), 5)], [((), 3)])


def test_what_the_database_cannot_follow_with_is_a_gauge() -> None:
    gauges = engine_gauges(engine(), timedelta(seconds=10), now_s=60.0)

    assert gauges["intake_share"] == [(("commits",), 0.25), (("replicas",), 1.0)]


def test_overdue_and_paused_schedules_are_gauges() -> None:
    gauges = engine_gauges(engine(), timedelta(seconds=10), now_s=60.0)

    assert gauges["schedule_overdue_seconds"] == [(("close",), 3.5), (("open",), 0.0)]
    assert gauges["schedule_paused"] == [(("close",), 0), (("open",), 1)]


def test_what_waits_in_queues_are_gauges_and_their_age_is_as_of_the_scrape() -> None:
    gauges = engine_gauges(engine(), timedelta(seconds=10), now_s=60.0)

    names = ("queue_depth", "queue_delayed", "queue_places", "queue_oldest_seconds", "queue_paused", "queue_listeners")
    assert [gauges[name] for name in names] == [[(("mails",), value)] for value in (5, 2, 3, 10.0, 0, 1)]


def test_what_waits_in_the_outbox_is_a_gauge_of_one_process() -> None:
    waiting = engine_gauges(engine(), timedelta(seconds=10), now_s=60.0)
    halted = engine_gauges(engine(outbox=OutboxDepth(0, None, "other brokers")), timedelta(seconds=10), now_s=60.0)
    another = engine_gauges(engine(outbox=None), timedelta(seconds=10), now_s=60.0)

    names = ("outbox_depth", "outbox_oldest_seconds", "relay_halted")
    assert [waiting[name] for name in names] == [[((), 7)], [((), 5.0)], [((), 0)]]
    assert [halted[name] for name in names] == [[((), 0)], [((), 0.0)], [((), 1)]]
    assert not another.keys() & set(names)


def test_the_process_that_deletes_shows_how_it_gets_on_and_the_others_nothing() -> None:
    gauges = engine_gauges(engine(), timedelta(seconds=10), now_s=60.0)
    of_another = engine_gauges(engine(retention=None), timedelta(seconds=10), now_s=60.0)

    assert gauges["retention_late_seconds"] == [((), 7.0)]
    assert gauges["retention_paused"] == [((), 1)]
    assert gauges["retention_vacuum_held_seconds"] == [((), 3.0)]
    assert not [name for name in of_another if name.startswith("retention")]


def test_a_partitions_progress_and_what_is_under_way_are_gauges() -> None:
    gauges = engine_gauges(engine(source()), timedelta(seconds=10), now_s=60.0)

    assert gauges["partition_progress_offset"] == [(PLACE, 100)]
    assert gauges["partition_watermark_gap"] == [(PLACE, 30)]
    assert gauges["partition_owner_epoch"] == [(PLACE, 4)]
    assert gauges["partition_lag_seconds"] == [(PLACE, 10.0)]
    assert gauges["lease_remaining_seconds"] == [((), 7.0)]


def test_an_idle_partition_has_no_lag_and_a_lost_lease_no_time() -> None:
    idle = source(in_flight=0, backlog=0, oldest_ms=None)
    gauges = engine_gauges(engine(idle, lease_is_valid=False), timedelta(seconds=10), now_s=60.0)

    assert gauges["partition_lag_seconds"] == [(PLACE, 0.0)]
    assert gauges["lease_remaining_seconds"] == [((), 0.0)]


def test_a_partition_that_stands_before_records_does_not_claim_to_be_in_time() -> None:
    """Halted with a backlog in Kafka: an age of 0 would keep every alert silent."""
    idle = engine_gauges(engine(source(in_flight=0, backlog=0, oldest_ms=None)), timedelta(seconds=10), 60.0)

    def ages(lag: int) -> object:
        samples: Samples = {**idle, "partition_lag": [(PLACE, lag)]}
        return without_ages_that_nobody_knows(samples)["partition_lag_seconds"]

    assert ages(50) == []
    assert ages(0) == [(PLACE, 0.0)]
    assert without_ages_that_nobody_knows({})["partition_lag_seconds"] == []


def test_what_kafka_assigned_shows_with_its_state() -> None:
    partition = PartitionSnapshot(
        source=REF,
        state=State.ATTACHED,
        reason="",
        paused=frozenset({"congested"}),
        next=100,
        high=130,
        log_end=LogEnd(150, 7),
        lag=50,
    )
    gauges = group_gauges(GroupSnapshot("shop", 0.1, 3, (partition,)))

    assert gauges["partition_state"] == [((*PLACE, "attached"), 1)]
    assert gauges["partition_paused"] == [((*PLACE, "congested"), 1)]
    assert gauges["partition_lag"] == [(PLACE, 50)]
    assert gauges["partition_open_transactions"] == [(PLACE, 7)]
    assert gauges["poll_age_seconds"] == [(("shop",), 0.1)]


def test_every_gauge_is_in_the_table_with_these_labels() -> None:
    labels = {metric.name: metric.labels for metric in METRICS}
    partition = PartitionSnapshot(REF, State.HALTED, "r", frozenset({"operator"}), 1, 2, LogEnd(3, 0), 2)
    found = engine_gauges(engine(source()), timedelta(seconds=10), 60.0)
    found |= group_gauges(GroupSnapshot("shop", 0.1, 3, (partition,)))
    found |= relay_gauges(RelaySnapshot(True, ("orders.dead",)))

    for name, samples in found.items():
        assert samples, name
        assert all(len(values) == len(labels[name]) for values, _ in samples), name


def test_the_relay_gets_the_outboxs_settings_and_kafkas_connection() -> None:
    settings = Settings.model_validate(
        {
            "kafka": {
                "bootstrap_servers": "kafka:1",
                "security_protocol": "SASL_SSL",
                "sasl": {"mechanism": "PLAIN", "username": "me", "password": "secret"},
                "extra": {"socket.timeout.ms": 5},
            },
            "outbox": {
                "batch_max": 7,
                "batch_bytes_max": "1KiB",
                "prefix": "mine",
                "position_topic": "mine.positions",
                "partitioner": "consistent_random",
                "compression": "zstd",
                "transaction_timeout": "20s",
                "refused_retry": "5s",
                "extra": {"linger.ms": 20},
                "event_bytes_max": 500,
            },
        }
    )

    relay = relay_settings(settings)

    assert (relay.bootstrap_servers, relay.security.username, relay.options) == (
        "kafka:1",
        "me",
        {"socket.timeout.ms": 5},
    )
    assert (relay.prefix, relay.position_topic, relay.producer_options) == ("mine", "mine.positions", {"linger.ms": 20})
    assert (relay.batch_rows_max, relay.batch_bytes_max) == (7, 1024)
    assert (relay.partitioner, relay.compression) == ("consistent_random", "zstd")
    assert (relay.transaction_timeout, relay.refused_retry) == (timedelta(seconds=20), timedelta(seconds=5))
    assert engine_settings(settings).event_bytes_max == 500
