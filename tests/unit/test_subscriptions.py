"""Which handler a topic goes to."""

from datetime import datetime

import pytest

from consumers.settings import GroupProtocol, StartAtTime, Subscription, check_subscriptions, subscription_of
from engine.errors import ConfigurationError

ORDERS = Subscription(topic="orders", handler="fulfil")
ALL = Subscription(topic="^orders.*", handler="archive")


def test_a_topic_has_one_handler_in_a_group() -> None:
    """Case 35: two would each see half of the records."""
    with pytest.raises(ConfigurationError, match="'fulfil' and 'bill'"):
        check_subscriptions((ORDERS, Subscription(topic="orders", handler="bill")))


def test_a_group_without_topics_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="nothing to consume"):
        check_subscriptions(())


def test_a_topics_own_name_goes_before_a_pattern() -> None:
    assert subscription_of("orders", (ALL, ORDERS), GroupProtocol.CLASSIC) is ORDERS
    assert subscription_of("orders.eu", (ALL, ORDERS), GroupProtocol.CLASSIC) is ALL


def test_a_topic_of_two_patterns_is_refused() -> None:
    """Case 35, by way of patterns: which of the two got it would be chance."""
    other = Subscription(topic="^.*eu$", handler="audit")

    with pytest.raises(ConfigurationError, match="disjoint"):
        subscription_of("orders.eu", (ALL, other), GroupProtocol.CLASSIC)


def test_patterns_are_searched_by_the_classic_protocol_and_matched_whole_by_kip_848() -> None:
    prefix = Subscription(topic="^orders", handler="archive")

    assert subscription_of("orders-1", (prefix,), GroupProtocol.CLASSIC) is prefix
    with pytest.raises(ConfigurationError, match="no subscription"):
        subscription_of("orders-1", (prefix,), GroupProtocol.CONSUMER)


def test_a_pattern_must_be_one() -> None:
    with pytest.raises(ConfigurationError, match="regular expression"):
        Subscription(topic="^(", handler="fulfil")


def test_a_start_time_needs_its_timezone() -> None:
    with pytest.raises(ValueError, match="timezone"):
        StartAtTime(datetime(2026, 1, 1))  # noqa: DTZ001  # that is the point
