"""Sealed values: opened by who has the key, by nobody else, and not after somebody changed them (decision 0012)."""

import json
import string
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import payloads as module
from engine.errors import ConfigurationError
from engine.payloads import PayloadKeys, Payloads, UnreadablePayloadError, from_member, key_id_of, member_of
from engine.sealed_rows import opened_request, sealed_request

BASE64 = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"

pytest.importorskip("cryptography", reason="wants the extra encryption")

OLD, NEW = bytes(range(32)), bytes(range(1, 33))


def with_keys(keys: Mapping[str, bytes], current: str | None) -> Payloads:
    return Payloads(PayloadKeys(keys, current))


def sealing(keys: Mapping[str, bytes] | None = None, current: str = "new") -> Payloads:
    return with_keys(keys or {"new": NEW, "old": OLD}, current)


def seal(payloads: Payloads, text: str) -> str:
    assert payloads.seal is not None
    return payloads.seal(text)


@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    payloads = sealing()
    assert payloads.open(seal(payloads, text), "row") == text


@given(st.text(alphabet=st.characters(codec=None)))
def test_a_text_that_no_column_could_hold_is_the_columns_problem(text: str) -> None:
    """Lone surrogates and NUL: sealing raises nothing, so a flush is built; without a key Postgres refuses them (P27)."""
    payloads = sealing()
    assert payloads.open(seal(payloads, text), "row") == text


@given(st.binary())
def test_every_payload_comes_back(value: bytes) -> None:
    payloads = sealing()
    assert payloads.open_bytes(payloads.seal_bytes(value), "row") == value


def test_a_sealed_value_is_json_that_nobody_else_writes() -> None:
    """dbos clients list the rows: it must be JSON; and no value of a user's may be taken for a sealed one."""
    payloads = sealing()
    text = seal(payloads, '{"order_id": "o-1"}')

    assert list(json.loads(text)) == ["sealed"]
    assert "o-1" not in text
    assert key_id_of(text) == "new"
    assert json.loads(f"{{{member_of(text)}}}")["sealed"] == json.loads(text)["sealed"]
    assert payloads.open(from_member(json.loads(text)["sealed"]), "row") == '{"order_id": "o-1"}'
    for mine in (json.dumps(json.loads(text)), '{"sealed": "new:AAAA"}', '{"sealed":"new:AAAA"}', "7", '"text"', ""):
        assert payloads.open(mine, "row") == mine
        assert key_id_of(mine) is None


def test_nothing_is_sealed_without_a_key_and_null_never() -> None:
    assert Payloads().seal is None
    assert with_keys({"old": OLD}, None).seal is None
    assert seal(sealing(), "null") == "null"


def test_no_two_values_are_sealed_alike() -> None:
    """A nonce is used once, also by two processes with one key."""
    payloads, other = sealing(), sealing()

    assert len({seal(each, "same") for each in (payloads, other) for _ in range(1_000)}) == 2_000


def test_a_forked_process_does_not_count_on_as_its_parent_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """One nonce for two values would give both away."""
    payloads = sealing()
    before = _nonce(seal(payloads, "same"))[:16]
    monkeypatch.setattr(module.os, "getpid", lambda: 0)

    text = seal(payloads, "same")
    assert _nonce(text)[:16] != before
    assert payloads.open(text, "row") == "same"


def test_a_salt_is_used_for_so_many_values_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SUBKEY_VALUES_MAX", 3)
    payloads = sealing()
    nonces = [_nonce(seal(payloads, "same")) for _ in range(7)]

    assert len(set(nonces)) == 7
    assert len({nonce[:16] for nonce in nonces}) == 3


def test_old_values_are_read_while_their_key_is_there() -> None:
    old = seal(sealing({"old": OLD}, "old"), "x")

    assert sealing().open(old, "row") == "x"
    assert with_keys({"old": OLD}, None).open(old, "row") == "x", "sealing is off, reading is not"


@pytest.mark.parametrize("keys", [{}, {"other": OLD}], ids=["none", "another"])
def test_a_missing_key_is_named_with_its_row(keys: dict[str, bytes]) -> None:
    old = seal(sealing({"old": OLD}, "old"), "secret")

    with pytest.raises(UnreadablePayloadError) as refused:
        with_keys(keys, None).open(old, "workflow orders-0-7: inputs")
    assert str(refused.value).startswith("workflow orders-0-7: inputs is sealed with key 'old', which is not among")
    assert refused.value.key_id == "old"


def test_another_key_under_the_same_id_is_said_so() -> None:
    old = seal(sealing({"k": OLD}, "k"), "secret")

    with pytest.raises(
        UnreadablePayloadError, match="not with the one that is configured under this ID, or it was changed"
    ):
        sealing({"k": NEW}, "k").open(old, "row")


def test_no_byte_can_be_changed() -> None:
    """The tag is over the text and the key's ID; the salt and the counter make key and nonce."""
    payloads = sealing()
    value = payloads.seal_bytes(b"secret")
    for place in range(len(value)):
        for changed in (value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :], value[:place]):
            with pytest.raises(UnreadablePayloadError):
                payloads.open_bytes(changed, "row")
    text = seal(payloads, "secret")
    for place in range(text.index(":", 12), len(text) - 2):
        # The highest of a digit's six bits: of the last digit, the lowest may be none of a byte.
        at = BASE64.find(text[place])
        other = "A" if at < 0 else BASE64[at ^ 32]
        with pytest.raises(UnreadablePayloadError):
            payloads.open(text[:place] + other + text[place + 1 :], "row")


def test_a_value_cannot_be_passed_off_as_another_keys() -> None:
    """Two IDs with one key: the ID is part of what is sealed."""
    payloads = sealing({"a": OLD, "b": OLD}, "a")

    with pytest.raises(UnreadablePayloadError):
        payloads.open(seal(payloads, "x").replace('"a:', '"b:'), "row")


@pytest.mark.parametrize(
    "keys,current,words",
    [
        ({"k": b"short"}, "k", "payloads.keys.k: a key has 32 bytes, this one 5"),
        ({"no good": OLD}, None, "'no good' is no ID of a key"),
        ({"a:b": OLD}, None, "'a:b' is no ID of a key"),
        ({"k": OLD}, "other", "payloads.key: 'other' is not among the keys that are configured: k"),
        ({}, "k", "payloads.key: 'k' is not among the keys that are configured: none"),
    ],
)
def test_keys_that_are_none_are_refused(keys: dict[str, bytes], current: str | None, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        PayloadKeys(keys, current)
    assert words in str(refused.value)


def test_keys_are_in_no_repr() -> None:
    assert repr(PayloadKeys({"k": OLD}, "k")) == "PayloadKeys(current='k')"


def _nonce(text: str) -> bytes:
    from base64 import b64decode

    return b64decode(json.loads(text)["sealed"].partition(":")[2])[1 : 1 + 16 + 8]


HTTP: dict[str, Any] = {
    "method": "POST",
    "route": "/orders/{id}",
    "path": "/orders/1",
    "query": "",
    "headers": {},
    "client": None,
}


@pytest.mark.parametrize(
    "request_", [HTTP, HTTP | {"headers": {"sealed": "by whom"}}, {"parent": "o-1", "sealed": "a word of another's"}]
)
def test_what_asked_for_a_workflow_comes_back_sealed_or_not(request_: Mapping[str, object]) -> None:
    """A header named as the member is, and what another program writes, are no sealed requests."""
    text, payloads = json.dumps(request_), sealing()
    assert payloads.seal is not None

    sealed = sealed_request(text, payloads.seal)

    assert json.loads(opened_request(text, payloads, "row")) == request_
    assert json.loads(opened_request(sealed, payloads, "row")) == request_
    assert "/orders/1" not in sealed
