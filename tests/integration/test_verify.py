"""`processor verify`: what it calls proven, and what it finds (I1 to I3, I5, P30)."""

import asyncio

import pytest
from confluent_kafka import Producer

from consumers import reading
from consumers.cluster import Cluster
from consumers.mock import MockCluster
from consumers.settings import GroupSettings, StartAt, Subscription
from engine import completeness
from engine.inspection import connected
from engine.partitions import Place
from engine.progress import Progress
from engine.records import Record
from engine.settings import EngineSettings
from processor.cli import DONE, FAILED, MISTAKE
from processor.verification import Verification, Wanted
from tests.conformance.members import produce
from tests.fixtures.kafka import Kafka
from tests.integration.conftest import Command
from tests.integration.members import PATIENCE_S, Members, fetch, settled, texts, until
from tests.integration.verifying import APP, EFFECTS, VERIFY, finished, kinds, orders, processed, shown


@pytest.fixture
async def shop(database: str, mock_cluster: MockCluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database of twelve orders that were processed."""
    mock_cluster.create_topic("orders", 1)
    monkeypatch.setenv("PROCESSOR_KAFKA_BOOTSTRAP_SERVERS", mock_cluster.bootstrap_servers)
    await processed(database, mock_cluster.bootstrap_servers)
    return database


async def test_all_that_was_processed_is_proven_with_its_reasons(shop: str, command: Command) -> None:
    """I1: a row, a failure, a filter's decision or a tombstone for each; and an effect for each that succeeded (I5)."""
    code, out, err = await command(*VERIFY, *APP, "--finished", "--effects", EFFECTS)

    assert (code, err) == (DONE, "")
    row, effects = shown(out)
    wanted = {"from": 0, "to": 12, "records": 12, "succeeded": 9, "failed": 1, "open": 0, "filtered": 1}
    wanted |= {"tombstones": 1, "lag": 0, "verdict": "proven", "partition": "orders-0", "group": "shop"}
    assert row.items() >= wanted.items()
    assert effects == {"effects": []}
    code, out, _ = await command("verify", *APP, "--effects", EFFECTS)
    assert code == DONE
    assert out.splitlines()[0].split() == [
        *("GROUP", "PARTITION", "FROM", "TO", "RECORDS", "SUCCEEDED", "FAILED", "OPEN", "LAG"),
        *("FILTERED", "TOMBSTONES", "VERDICT"),
    ]
    assert out.splitlines()[-1] == "effects: each is there, and none twice"


NEXT_12, HIGH_12 = '"next":12', '"high":12'

DAMAGES: list[tuple[str, dict[str, list[str]]]] = [
    ("DELETE FROM dbos.workflow_status WHERE kafka_offset = 4", {"lost": ["4"]}),
    ("UPDATE dbos.workflow_status SET status = 'GONE' WHERE kafka_offset = 4", {"foreign row": ["4"]}),
    ("UPDATE dbos.workflow_status SET kafka_source = 'x|orders-0' WHERE kafka_offset = 4", {"foreign row": ["4"]}),
    (
        """UPDATE dbos.workflow_status SET request = replace(request, '"timestamp": ', '"timestamp": 9')
            WHERE kafka_offset = 4""",
        {"other record": ["4"]},
    ),
    (
        """UPDATE dbos.workflow_status SET request = replace(request, '"timestamp": ', '"timestamp": 999999')
            WHERE kafka_offset = 4""",
        {"other record": ["4"]},
    ),
    (
        f"UPDATE dbos.event_dispatch_kv SET value = replace(value, '{NEXT_12}', '\"next\":11')",
        {"progress behind": ["11"]},
    ),
    (
        f"""UPDATE dbos.event_dispatch_kv
               SET value = replace(replace(value, '{NEXT_12}', '"next":11'), '{HIGH_12}', '"high":11')""",
        {"above high": ["11"]},
    ),
    (
        f"""UPDATE dbos.event_dispatch_kv
               SET value = replace(replace(value, '{NEXT_12}', '"next":13'), '{HIGH_12}', '"high":13')""",
        {"log": []},
    ),
    ("""UPDATE dbos.event_dispatch_kv SET value = replace(value, '"skipped":1', '"skipped":0')""", {"miscounted": []}),
]


async def test_what_is_not_as_it_was_written_is_found(shop: str, command: Command) -> None:
    """I1, I3: one row deleted or changed, progress moved by one either way, a decision less."""
    tables = ("dbos.workflow_status", "dbos.event_dispatch_kv")
    for table in tables:
        await fetch(shop, f"CREATE TABLE {table}_kept AS TABLE {table}")
    for damage, found in DAMAGES:
        await fetch(shop, damage)

        code, out, _ = await command(*VERIFY, *APP)

        assert (code, kinds(shown(out)[0])) == (FAILED, found), damage
        for table in tables:
            await fetch(shop, f"DELETE FROM {table}")
            await fetch(shop, f"INSERT INTO {table} TABLE {table}_kept")
    await fetch(shop, "UPDATE dbos.workflow_status SET status = 'PENDING' WHERE kafka_offset = 4")
    assert (await command(*VERIFY, *APP))[0] == DONE
    code, out, _ = await command(*VERIFY, *APP, "--finished")
    assert (code, kinds(shown(out)[0])) == (FAILED, {"open": []})


async def test_effects_that_are_missing_doubled_or_nobodys_are_found(shop: str, command: Command) -> None:
    """I5; and a query that cannot be is said to be one, with exit code 2."""
    await fetch(shop, "INSERT INTO sale SELECT * FROM sale WHERE workflow_id = 'orders-0-3'")
    await fetch(shop, "DELETE FROM sale WHERE workflow_id = 'orders-0-5'")
    await fetch(shop, "INSERT INTO sale VALUES ('orders-0-7', 1), ('orders-0-6', 1), ('queued', 1), ('orders-0-x', 1)")

    code, out, _ = await command(*VERIFY, *APP, "--effects", EFFECTS)

    assert code == FAILED
    assert kinds(shown(out)[1]) == {
        "doubled effect": ["orders-0-3 (2)"],
        "missing effect": ["orders-0-5 (0)"],
        "orphaned effect": ["orders-0-7 (1)"],
        "nobody's effect": ["orders-0-x (1)"],
    }
    code, out, _ = await command("verify", *APP, "--effects", EFFECTS)
    assert "effects: doubled effect: 1 workflows with more than 1 effects: orders-0-3 (2)" in out.splitlines()
    code, _, err = await command(*VERIFY, *APP, "--effects", EFFECTS, "--effects-handler", "another")
    assert (code, "effects of 'another': no such handler has a partition here" in err) == (MISTAKE, True)
    for query in ("SELECT 1 FROM nothing", "SELECT workflow_id FROM sale", "DELETE FROM sale RETURNING workflow_id, 1"):
        code, _, err = await command(*VERIFY, *APP, "--effects", query)
        assert code == MISTAKE
        assert "the query of effects does not run" in err
    code, _, err = await command(*VERIFY, *APP, "--effects", EFFECTS, "--effects-each", "0")
    assert (code, "--effects-each 0: 1 or more" in err) == (MISTAKE, True)


async def test_without_the_app_nothing_is_claimed_of_what_a_filter_may_have_passed_over(
    shop: str, command: Command
) -> None:
    """A proof says what it cannot say; what lies outside of the range is not looked at."""
    code, out, _ = await command(*VERIFY)
    assert (code, kinds(shown(out)[0])) == (FAILED, {"unproven": ["7"]})
    code, out, _ = await command("verify", "orders-0", "--group", "shop", "--from", "8", "--to", "latest")
    assert code == DONE
    code, out, _ = await command(*VERIFY, "--to", "7")
    assert (code, shown(out)[0]["to"]) == (DONE, 7)
    for arguments, message in [
        (("orders-7",), "partition 'orders-7' has no progress"),
        (("--group", "nobody"), "no partition of group 'nobody' has progress"),
    ]:
        code, _, err = await command("verify", *arguments)
        assert (code, message in err) == (MISTAKE, True)


async def test_what_retention_deleted_and_what_a_seek_moved_is_no_finding(shop: str, command: Command) -> None:
    """P30, I1: below the horizon rows may be gone; a seek back leaves rows at the progress, a seek forward a gap."""
    await fetch(shop, "DELETE FROM dbos.workflow_status WHERE kafka_offset < 3")
    await fetch(shop, "INSERT INTO dbos.horizon VALUES ('shop|orders-0', 3)")
    code, out, _ = await command(*VERIFY, *APP, "--effects", EFFECTS)
    assert (code, shown(out)[0]["deleted"], kinds(shown(out)[1])) == (DONE, 3, {})

    seek = ("partitions", "seek", "orders-0", "--group", "shop", "--note", "asked for", "--yes", "--to")
    assert (await command(*seek, "9"))[0] == DONE
    code, out, _ = await command(*VERIFY, *APP)
    assert (code, shown(out)[0]["lag"], kinds(shown(out)[0])) == (DONE, 3, {})
    code, out, _ = await command(*VERIFY, *APP, "--finished")
    assert (code, kinds(shown(out)[0])) == (FAILED, {"behind": []})
    await fetch(shop, "DELETE FROM dbos.workflow_status WHERE kafka_offset = 4")
    await fetch(shop, "INSERT INTO dbos.gap VALUES (DEFAULT, 'shop|orders-0', 4, 5, 'lost', 'ada', 0)")
    code, out, _ = await command(*VERIFY, *APP)
    assert (code, shown(out)[0]["gap"]) == (DONE, 1)


async def test_many_windows_prove_as_one(shop: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: a window has so many records, bytes and offsets; what is kept of it is counts."""
    for limit, value in (("RECORDS_MAX", 5), ("BYTES_MAX", 1), ("OFFSETS_MAX", 2)):
        monkeypatch.setattr(reading, limit, value)
        code, out, _ = await command(*VERIFY, *APP)
        assert (code, shown(out)[0]["records"]) == (DONE, 12)


async def test_brokers_that_fall_silent_are_said_to_and_ctrl_c_is_heard(
    shop: str, mock_cluster: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not read is not called proven; who no longer waits is not waited for."""
    settings = GroupSettings(bootstrap_servers=mock_cluster.bootstrap_servers, group="shop")
    cluster, reads = Cluster(settings), asyncio.Event()
    await cluster.open(["orders"])

    def goes_away(count: int) -> None:
        assert count == 12
        mock_cluster.broker_down()
        reads.set()

    async with connected(EngineSettings(conninfo=shop)) as connection:
        verification = Verification(connection, "dbos", settings, cluster, expect=goes_away)
        verifying = asyncio.create_task(verification.verify(Place("shop", "orders-0"), Wanted(), orders.decide))
        await reads.wait()
        verifying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await verifying
        mock_cluster.broker_up()
        monkeypatch.setattr(reading, "SILENCE_MAX_S", 0)
        verified = await verification.verify(Place("shop", "orders-0"), Wanted(), orders.decide)
    cluster.close()

    assert list(verified.tally.findings) == [completeness.Kind.UNREAD]
    assert "nothing came for 0 s" in verified.tally.findings[completeness.Kind.UNREAD].message


async def test_a_group_that_began_at_the_end_does_not_miss_what_was_before(
    mock_cluster: MockCluster, topic: str, database: str, members: Members, command: Command
) -> None:
    """K5, I1: where a first start passes over records, that is a recorded gap."""
    mock_cluster.create_topic(topic, 1)
    produce(mock_cluster.bootstrap_servers, topic, texts("before", 5))
    member = await members(mock_cluster, Subscription(topic=topic, handler="fulfil", start=StartAt.LATEST))
    await until(lambda: set(member.states.values()) == {"attached"}, member)
    produce(mock_cluster.bootstrap_servers, topic, texts("after", 2))
    await settled(database, 2, member)
    await member.stop()

    code, out, _ = await command(*VERIFY, kafka=mock_cluster.bootstrap_servers)

    assert (code, shown(out)[0]["gap"], shown(out)[0]["succeeded"]) == (DONE, 5, 2)
    assert await fetch(database, "SELECT from_offset, to_offset, reason FROM dbos.gap") == [(0, 5, "first start")]


async def test_partitions_that_nobody_has_claimed_are_found_where_all_is_to_be_finished(
    mock_cluster: MockCluster, topic: str, database: str, members: Members, command: Command
) -> None:
    """I1: who proves what has progress proves nothing of what has none. Nor is nothing at all a proof."""
    mock_cluster.create_topic(topic, 2)
    code, _, err = await command("verify", kafka=mock_cluster.bootstrap_servers)
    assert (code, "there is nothing to prove" in err) == (MISTAKE, True)
    for partition in range(2):
        produce(mock_cluster.bootstrap_servers, topic, texts("n", 5), partition=partition)
    member = await members(mock_cluster, Subscription(topic=topic, handler="fulfil"))
    await settled(database, 10, member)
    await member.stop()
    finished = ("verify", "--finished", "--json")
    whole, _, _ = await command(*finished, kafka=mock_cluster.bootstrap_servers)
    await fetch(database, f"DELETE FROM dbos.event_dispatch_kv WHERE key = '{topic}-1'")

    code, out, _ = await command(*finished, kafka=mock_cluster.bootstrap_servers)
    said = await command("verify", "--finished", kafka=mock_cluster.bootstrap_servers)
    named, _, _ = await command(*finished, f"{topic}-0", kafka=mock_cluster.bootstrap_servers)
    beside, _, _ = await command(*VERIFY, kafka=mock_cluster.bootstrap_servers)

    assert (whole, code, named, beside) == (DONE, FAILED, DONE, FAILED)
    assert [(row["partition"], row["verdict"], row["lag"]) for row in shown(out)] == [
        (f"{topic}-0", "proven", 0),
        (f"{topic}-1", "unclaimed", 5),
    ]
    assert "unclaimed: rows of it stand, or were deleted, and it has no progress" in said[1]


async def test_it_finds_nothing_while_records_are_processed_beside_it(
    mock_cluster: MockCluster, topic: str, database: str, members: Members, command: Command
) -> None:
    """Progress is read before the rows: whatever is committed meanwhile lies above it."""
    mock_cluster.create_topic(topic, 2)
    for partition in range(2):
        produce(mock_cluster.bootstrap_servers, topic, texts("", 2_000), partition=partition)
    member = await members(mock_cluster)
    proven = 0
    while len(await fetch(database, "SELECT key FROM dbos.event_dispatch_kv")) < 2:
        await asyncio.sleep(0.01)  # where nothing is claimed, nothing is proven
    while await fetch(database, "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'") != [(4_000,)]:
        code, out, _ = await command(*VERIFY, kafka=mock_cluster.bootstrap_servers)
        assert code == DONE, out
        proven += 1
    await member.stop()

    code, out, _ = await command(*VERIFY, "--finished", kafka=mock_cluster.bootstrap_servers)
    assert (code, [row["succeeded"] for row in shown(out)]) == (DONE, [2_000, 2_000])
    assert proven


def test_what_retention_deleted_since_the_rows_were_read_is_no_finding() -> None:
    """P30: horizon and gaps are read after the rows; below them nothing is called lost."""
    standing = completeness.Standing(
        place=Place("shop", "orders-0"),
        handler="fulfil",
        epoch=1,
        progress=Progress(next=9, high=9),
        source="shop|orders-0",
        prefix="orders-0-",
        former=(),
        holds=0,
        horizon=0,
        gaps=(),
        first_row=None,
        above=(),
    )
    missing = [Record("orders", 0, offset, None, b"x") for offset in range(6)]
    tally = completeness.Tally()

    completeness.judge_missing(standing, tally, missing, horizon=3, gaps=[(4, 5)], decide=None)

    assert (tally.deleted, tally.gap, list(tally.findings)) == (3, 1, [completeness.Kind.LOST])
    assert tally.findings[completeness.Kind.LOST].examples == ["3", "5"]


@pytest.mark.kafka
async def test_holes_of_the_log_are_told_apart(  # noqa: PLR0917  # fixtures
    kafka: Kafka, topic: str, database: str, members: Members, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 27: aborted records and control records have no rows, and one of an aborted record is found."""
    kafka.create_topic(topic, 1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    for transaction, commits in enumerate((True, False, True, False)):
        producer.begin_transaction()
        for n in range(3):
            producer.produce(topic, f"{transaction}-{n}", partition=0)
        assert producer.flush(30) == 0
        (producer.commit_transaction if commits else producer.abort_transaction)(30)
    kafka.delete_records(topic, 0, before=1)
    member = await members(kafka, Subscription(topic=topic, handler="fulfil"))
    await finished(database, 16)
    await member.stop()

    for windows in (reading.RECORDS_MAX, 2):
        monkeypatch.setattr(reading, "RECORDS_MAX", windows)
        code, out, _ = await command(*VERIFY, "--finished", kafka=kafka.bootstrap_servers)
        wanted = {"from": 1, "to": 16, "records": 5, "succeeded": 5, "aborted": 6, "markers": 4, "compacted": 0}
        assert (code, shown(out)[0].items() >= wanted.items()) == (DONE, True), out
    cluster = Cluster(GroupSettings(bootstrap_servers=kafka.bootstrap_servers, group="x"))
    await cluster.open([topic])
    assert not await cluster.compacts(topic)
    kafka.create_topic(f"{topic}.compacted", 1, cleanup_policy="compact")
    assert await cluster.compacts(f"{topic}.compacted")
    cluster.close()
    code, out, _ = await command(*VERIFY, "--from", "0", kafka=kafka.bootstrap_servers)
    assert (code, shown(out)[0]["below_log"]) == (DONE, 1)
    await fetch(
        database,
        "UPDATE dbos.workflow_status SET workflow_uuid = regexp_replace(workflow_uuid, '-8$', '-4') WHERE kafka_offset = 8",
    )
    code, out, _ = await command(*VERIFY, kafka=kafka.bootstrap_servers)
    assert (code, kinds(shown(out)[0])) == (FAILED, {"aborted": ["4"], "lost": ["8"]})


@pytest.mark.kafka
async def test_a_log_that_was_compacted_before_and_after_its_records_ran_is_proven(
    kafka: Kafka, topic: str, database: str, members: Members, command: Command
) -> None:
    """Case 24: the broker's own cleaner. Offsets that are gone have their rows where they ran before, and none where they did not."""
    kafka.create_topic(topic, 1, retention_ms="-1", segment_ms="1", min_cleanable_dirty_ratio="0.001")
    settings = GroupSettings(bootstrap_servers=kafka.bootstrap_servers, group="x")
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})

    def produce_each(offsets: range) -> None:
        for offset in offsets:  # each in a segment of its own, by its time; all but the last are compacted
            producer.produce(topic, f"{offset}", key="ab"[offset % 2], timestamp=1_700_000_000_000 + offset * 10_000)
            assert producer.flush(30) == 0

    async def until_compacted(end: int, left: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = await asyncio.to_thread(lambda: [*reading.windows(settings, (topic, 0), 0, end)])
                if sum(len(window.records) for window in found) == left:
                    return

    produce_each(range(6))
    member = await members(kafka, Subscription(topic=topic, handler="fulfil"))
    await finished(database, 6)
    await member.stop()
    produce_each(range(6, 12))
    kafka.change_topic(topic, cleanup_policy="compact")
    await until_compacted(12, 3)  # of either key the last of the older segments, and the newest segment
    before = await fetch(database, "SELECT kafka_offset FROM dbos.workflow_status ORDER BY 1")
    member = await members(kafka, Subscription(topic=topic, handler="fulfil"))
    await finished(database, 12)
    await member.stop()
    after = await fetch(database, "SELECT kafka_offset FROM dbos.workflow_status ORDER BY 1")

    code, out, _ = await command(*VERIFY, "--finished", kafka=kafka.bootstrap_servers)
    wanted = {"from": 0, "to": 12, "records": 3, "succeeded": 3, "compacted": 9, "markers": 0, "lag": 0}
    assert (code, shown(out)[0].items() >= wanted.items()) == (DONE, True), out
    assert [row[0] for row in before] == list(range(6))
    assert [row[0] for row in after] == [*range(6), 9, 10, 11]
    await fetch(database, "DELETE FROM dbos.workflow_status WHERE kafka_offset = 10")
    code, out, _ = await command(*VERIFY, kafka=kafka.bootstrap_servers)
    assert (code, kinds(shown(out)[0])) == (FAILED, {"lost": ["10"]})
