"""`processor verify` where it could have called proven what is not (I1, I3, I5)."""

import pytest
from confluent_kafka import Producer

from consumers.mock import MockCluster
from processor.cli import DONE, FAILED, MISTAKE
from tests.fixtures.kafka import Kafka
from tests.integration.conftest import Command
from tests.integration.members import Members, fetch
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
