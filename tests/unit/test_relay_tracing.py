"""The relay's spans, without a relay: what a batch comes to in them."""

import json
from base64 import b64encode

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from engine.batches import Batch
from engine.store.outbox import OutboxRow
from processor.relay_tracing import LINKS_MAX, RelaySpans
from tests.integration.tracing import PARENT, TRACE, Kept, linked, parent_of, trace_of


def event(topic: str, span_id: str | None = PARENT, flags: str = "01") -> OutboxRow:
    parent = b64encode(f"00-{TRACE}-{span_id}-{flags}".encode()).decode()
    headers = None if span_id is None else json.dumps([["traceparent", parent]])
    return OutboxRow(1, 1, topic, b"k", b"{}", headers)


def test_each_topic_of_a_batch_has_a_span_beneath_its_first_event_and_linked_to_all() -> None:
    kept = Kept()
    other = "00f067aa0ba902b8"
    batch = Batch(7, "token", [event("told"), event("told", other), event("told", None), event("sold", other)])

    RelaySpans(kept.spans).sent(batch, 1, None)

    told, sold = kept.one("send told"), kept.one("send sold")
    assert (told.kind, trace_of(told), parent_of(told)) == (SpanKind.CLIENT, TRACE, int(PARENT, 16))
    assert linked(told) == {int(PARENT, 16), int(other, 16)}
    assert (parent_of(sold), linked(sold)) == (int(other, 16), {int(other, 16)})
    attributes = dict(told.attributes or {})
    assert (attributes["messaging.batch.message_count"], attributes["onceflow.outbox.batch"]) == (3, 7)
    assert (attributes["messaging.operation.type"], told.status.status_code) == ("send", StatusCode.UNSET)
    assert told.start_time == 1


@pytest.mark.parametrize("row", [event("told", None), event("told", flags="00"), event("told", "no context")])
def test_what_is_in_no_sampled_trace_has_none(row: OutboxRow) -> None:
    kept = Kept()

    RelaySpans(kept.spans).sent(Batch(1, "token", [row]), 1, None)
    RelaySpans(Kept(ALWAYS_OFF).spans).sent(Batch(1, "token", [row]), 1, None)

    assert kept.all() == []


def test_a_transaction_in_doubt_says_its_error_and_links_are_bounded() -> None:
    """I10: a batch has thousands of events."""
    kept = Kept()

    RelaySpans(kept.spans).sent(Batch(1, "token", [event("told")] * (LINKS_MAX + 5)), 1, TimeoutError("no broker"))

    span = kept.one("send told")
    assert (len(span.links), span.status.status_code) == (LINKS_MAX, StatusCode.ERROR)
    assert "no broker" in str(span.status.description)
    assert dict(span.attributes or {})["error.type"] == "TimeoutError"
