"""Addresses of brokers as people write them, read as the client reads them. Pure.

The client takes a port that is no number for 0, tries it, and says after a while that nobody answers.
"""

import re
from ipaddress import AddressValueError, IPv6Address

PORT_MAX = 65_535

_PROTOCOL = re.compile(r"[A-Za-z_]+://")
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\s:/\[\]]+)(?::(?P<port>.*))?")


def check_brokers(text: str) -> None:
    """Raise `ValueError`, which names the address, where one of a list with commas between is no `host:port`.

    A host without a port has Kafka's own, 9092. An address of IPv6 that has one is in brackets.
    """
    for written in text.split(","):
        if address := _PROTOCOL.sub("", written.strip(), count=1):
            _check(address)


def _check(address: str) -> None:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        if not _is_ipv6(address):
            raise ValueError(f"{address!r} is no address of a broker: write host:port, or [IPv6]:port")
        return
    port = match["port"]
    if port is not None and not (re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= PORT_MAX):
        raise ValueError(f"{address!r}: the port is a number from 1 to {PORT_MAX}")


def _is_ipv6(address: str) -> bool:
    """Without brackets, and so without a port."""
    try:
        IPv6Address(address)
    except AddressValueError:
        return False
    return True
