"""When a silent client is asked for its brokers, and when it is given up."""

from consumers.contact import EVERY_S, GONE_S, SILENCE_S, Contact


def test_a_client_is_asked_after_a_silence_and_then_now_and_then() -> None:
    contact = Contact()
    contact.heard(100.0)

    assert not contact.is_due(100.0 + SILENCE_S - 1)
    assert contact.is_due(100.0 + SILENCE_S + 1)
    assert not contact.is_due(100.0 + SILENCE_S + 2)
    assert contact.is_due(100.0 + SILENCE_S + 1 + EVERY_S)


def test_a_client_that_brings_something_is_not_asked() -> None:
    contact = Contact()

    for now in range(100, 400):
        contact.heard(float(now))
        assert not contact.is_due(now + 0.5)


def test_a_client_is_given_up_when_it_has_known_no_broker_for_long() -> None:
    contact = Contact()
    contact.heard(100.0)

    assert not contact.is_gone(100.0 + SILENCE_S + GONE_S - 1)
    assert contact.is_gone(100.0 + SILENCE_S + GONE_S + 1)
    contact.heard(200.0)
    assert not contact.is_gone(201.0)
