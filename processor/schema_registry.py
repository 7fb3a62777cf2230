"""The schema registry of this process: connected by who runs an app, for as long as it runs, else by hand.

    with using_registry(load_settings()):
        producer.produce("orders", orders.encode(Order(...))[1])

Topics are made when a module is imported and know of no settings; so it is one for all, and another one is refused.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from consumers.registry import Registry
    from consumers.settings import RegistrySettings
    from processor.config import Settings


class _Connection:
    """The registry of this process, and how many use it."""

    registry: Registry | None = None
    users = 0


@contextmanager
def connected_to(settings: RegistrySettings | None) -> Generator[Registry | None]:
    """Connect this process's topics to a registry; `None`: to none. It may be nested, with the same settings.

    Raises:
        ConfigurationError: Wrong settings, a missing extra, or the process has another registry.
    """
    if settings is None:
        yield None
        return
    from consumers.registry import Registry

    if _Connection.registry is None:
        _Connection.registry = Registry(settings)
    elif _Connection.registry.settings != settings:
        raise ConfigurationError(
            "registry: this process is connected to another one already; it can have one at a time"
        )
    _Connection.users += 1
    try:
        yield _Connection.registry
    finally:
        _Connection.users -= 1
        if not _Connection.users:
            registry, _Connection.registry = _Connection.registry, None
            registry.close()


@contextmanager
def using_registry(settings: Settings) -> Generator[None]:
    """Connect the formats of this process's topics to the registry of these settings, outside of an app.

    Raises:
        ConfigurationError: `registry.url` is not set, other settings of it are wrong, or the process has another registry.
    """
    from processor.wiring import registry_settings

    chosen = registry_settings(settings)
    if chosen is None:
        raise ConfigurationError("registry.url is not set: there is no schema registry to use")
    with connected_to(chosen):
        yield


def connected() -> Registry:
    """The registry of this process. Raises `ConfigurationError` if it has none."""
    if _Connection.registry is None:
        raise ConfigurationError(
            "no schema registry is connected: set registry.url for an app; elsewhere `with using_registry(settings):`"
        )
    return _Connection.registry
