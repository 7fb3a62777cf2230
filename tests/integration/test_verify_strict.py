"""`processor verify` where it could have called proven what is not (I1, I3, I5)."""

import pytest
from confluent_kafka import Producer

from consumers.mock import MockCluster
from consumers.settings import Subscription
from processor.cli import DONE, FAILED, MISTAKE
from tests.conformance.members import produce
from tests.fixtures.kafka import Kafka
from tests.integration.conftest import Command
from tests.integration.members import Members, fetch, settled, texts
from tests.integration.verifying import APP, VERIFY, finished, kinds, processed, shown

BACK_TO = "UPDATE dbos.event_dispatch_kv SET value = replace(value, '\"next\":12', '\"next\":{}')"


@pytest.fixture
async def shop(database: str, mock_cluster: MockCluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database of twelve orders that were processed."""
    mock_cluster.create_topic("orders", 1)
    monkeypatch.setenv("PROCESSOR_KAFKA_BOOTSTRAP_SERVERS", mock_cluster.bootstrap_servers)
    await processed(database, mock_cluster.bootstrap_servers)
    return database


async def test_progress_moved_back_to_what_needs_no_row_is_found(shop: str, command: Command) -> None:
    """I3: 7 is passed over and 8 a tombstone; rows stand behind them, so progress was beyond. At 6 one could be under way."""
    for offset in (7, 8):
        await fetch(shop, BACK_TO.format(offset))
        code, out, _ = await command(*VERIFY, *APP)
        assert (code, kinds(shown(out)[0])) == (FAILED, {"progress behind": [str(offset)]})
        await fetch(shop, BACK_TO.replace(":12", f":{offset}").format(12))
    await fetch(shop, "DELETE FROM dbos.workflow_status WHERE kafka_offset = 6")
    await fetch(shop, BACK_TO.format(6))
    assert (await command(*VERIFY, *APP))[0] == DONE


@pytest.mark.kafka
async def test_progress_moved_back_to_a_control_record_is_found(
    kafka: Kafka, topic: str, database: str, members: Members, command: Command
) -> None:
    """I3: the marker of a transaction has no row, and the record behind it has one."""
    kafka.create_topic(topic, 1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    for n in range(2):
        producer.begin_transaction()
        producer.produce(topic, f"{n}", partition=0)
        producer.commit_transaction(30)
    member = await members(kafka)
    await finished(database, 4)
    await member.stop()
    await fetch(database, BACK_TO.replace(":12", ":4").format(1))

    code, out, _ = await command(*VERIFY, kafka=kafka.bootstrap_servers)

    assert (code, kinds(shown(out)[0])) == (FAILED, {"progress behind": ["1"]})


async def test_a_record_that_was_given_up_must_have_its_dead_letter(shop: str, command: Command) -> None:
    """Nobody would ever decide about it. One that was discarded may have been deleted when its retention was over."""
    await fetch(shop, "UPDATE dbos.dead_letter SET state = 'DISCARDED'")
    discarded, _, _ = await command(*VERIFY, *APP)
    await fetch(shop, "DELETE FROM dbos.dead_letter")
    code, out, _ = await command(*VERIFY, *APP)
    await fetch(shop, "UPDATE dbos.workflow_status SET updated_at = 0 WHERE kafka_offset = 6")
    outlived, _, _ = await command(*VERIFY, *APP)

    assert (discarded, code, kinds(shown(out)[0])) == (DONE, FAILED, {"no dead letter": ["6"]})
    assert outlived == DONE


async def test_a_range_that_holds_nothing_proves_nothing(shop: str, command: Command) -> None:
    for arguments, message in [
        (("--from", "8", "--to", "3"), "the range [8, 3) has no offset"),
        (("--from", "12"), "no partition has an offset in that range"),
        (("orders-0", "--from", "1000"), "no partition has an offset in that range"),
        (("--to", "earliest"), "no partition has an offset in that range"),
    ]:
        code, _, err = await command("verify", *APP, *arguments)
        assert (code, message in err) == (MISTAKE, True), arguments
    assert (await command("verify", *APP, "--from", "11"))[0] == DONE


async def test_progress_that_is_gone_is_missed(
    mock_cluster: MockCluster, topic: str, database: str, members: Members, command: Command
) -> None:
    """I1: by the rows it left, and where it left none by the records of the topic, which has others with progress or had."""
    for name in (topic, f"{topic}.more"):
        mock_cluster.create_topic(name, 2)
        for partition in range(2):
            produce(mock_cluster.bootstrap_servers, name, texts("n", 2), partition=partition)
    subscriptions = [Subscription(topic=name, handler=name) for name in (topic, f"{topic}.more")]
    member = await members(mock_cluster, *subscriptions)
    await settled(database, 8, member)
    await member.stop()
    verify = ("verify", "--json")
    whole, out, _ = await command(*verify, kafka=mock_cluster.bootstrap_servers)
    assert whole == DONE, out

    async def missed(*damages: str) -> dict[str, bool]:
        for damage in damages:
            await fetch(database, damage)
        code, out, _ = await command(*verify, kafka=mock_cluster.bootstrap_servers)
        assert code == FAILED
        return {row["partition"]: row["has_rows"] for row in shown(out) if row["verdict"] == "unclaimed"}

    one = await missed(f"DELETE FROM dbos.event_dispatch_kv WHERE key = '{topic}-1'")
    without_rows = await missed(f"DELETE FROM dbos.workflow_status WHERE kafka_source LIKE '%%|{topic}-1'")
    topics = await missed(
        f"DELETE FROM dbos.event_dispatch_kv WHERE key LIKE '{topic}.more-%%'",
        f"DELETE FROM dbos.workflow_status WHERE kafka_source LIKE '%%|{topic}.more-0'",
    )

    assert one == {f"{topic}-1": True}
    assert without_rows == {f"{topic}-1": False}
    assert topics == {f"{topic}-1": False, f"{topic}.more-0": False, f"{topic}.more-1": True}


async def test_effects_of_nobody_are_found(shop: str, command: Command) -> None:
    """I5: of a record that never was, of a partition without progress, of another ID, of none. A child's, whose row may have gone, is
    somebody's; so is a workflow's that stands.
    """
    every = "SELECT workflow_id, count(*) FROM sale GROUP BY 1"
    await fetch(shop, "INSERT INTO sale VALUES ('orders-0-3-1', 1)")
    assert (await command(*VERIFY, *APP, "--effects", every, "--effects-each", "1"))[0] == DONE
    await fetch(
        shop, "INSERT INTO sale VALUES ('orders-0-99', 1), ('orders-0-99-1', 1), ('orders-5-0', 1), (NULL, 1), ('x', 1)"
    )

    code, out, _ = await command(*VERIFY, *APP, "--effects", every)
    narrow, of_one, _ = await command(*VERIFY, *APP, "orders-0", "--to", "12", "--effects", every)

    assert (code, narrow) == (FAILED, DONE)
    assert kinds(shown(out)[1]) == {
        "orphaned effect": ["orders-0-99 (1)", "orders-0-99-1 (1)"],
        "nobody's effect": ["orders-5-0 (1)", "x (1)", "NULL (1)"],
    }
    assert shown(of_one)[1] == {"effects": []}


async def test_the_app_must_be_the_one_that_handles_what_is_proven(shop: str, command: Command) -> None:
    """Another's filters say nothing, and nobody is sent after an app that was given."""
    await fetch(shop, "UPDATE dbos.event_dispatch_kv SET workflow_fn_name = 'another'")

    for named in ((), ("orders-0",)):
        code, _, err = await command(*VERIFY, *APP, *named)
        assert (code, "app 'shop' has no handler 'another' in group 'shop'" in err) == (MISTAKE, True)
