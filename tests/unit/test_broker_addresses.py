"""Addresses of brokers: what the client would take for another address is refused before it is tried."""

import pytest

from processor.broker_addresses import check_brokers


@pytest.mark.parametrize(
    "text",
    [
        "localhost:9092",
        "broker",
        "a:1, b:65535,,c:2,",
        "SASL_SSL://broker.example:9093",
        "10.0.0.1:9092",
        "[::1]:9092",
        "[fe80::1%eth0]:9092",
        "::1",
        "kafka_1-x.svc.cluster.local:9092",
    ],
)
def test_what_the_client_reads_as_it_is_meant_is_taken(text: str) -> None:
    check_brokers(text)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("h:port", "'h:port': the port is a number from 1 to 65535"),
        ("a:1,b:99999", "'b:99999': the port is a number"),
        ("a:0", "'a:0': the port"),
        ("a:", "'a:': the port"),
        ("a:-1", "'a:-1': the port"),
        ("a:²", "'a:²': the port"),
        (":9092", "':9092' is no address of a broker: write host:port"),
        ("a:1 b:2", "'a:1 b:2': the port"),
        ("a b", "'a b' is no address of a broker"),
        ("[::1:9092", "is no address of a broker: write host:port, or [IPv6]:port"),
        ("a:1:2", "'a:1:2': the port"),
        ("a:9092/path", "'a:9092/path': the port"),
    ],
)
def test_what_is_no_address_is_named(text: str, problem: str) -> None:
    with pytest.raises(ValueError) as refused:
        check_brokers(text)

    assert problem in str(refused.value)
