"""What an app's handler says of another payload for one of its records, before a dead letter is edited."""

from typing import TYPE_CHECKING

from engine.edits import Check, Fits, fits
from engine.errors import ConfigurationError, NotYet
from engine.records import Record
from processor.formats import RegistryCodec

if TYPE_CHECKING:
    from processor.app import App


def check_of(app: "App", handler: str, *, unchecked: str) -> Check:
    """The check of a handler's payloads. What it returns raises `ConfigurationError` for one that does not fit.

    Args:
        app: Which has the handler.
        handler: By its name, or its former one.
        unchecked: How to do without, for messages: `leave --app out`.

    Raises:
        ConfigurationError: The app has no such handler, or its format cannot be checked without a schema registry.
    """
    found = next((each for each in app.workflows.values() if handler in (each.name, each.renamed_from)), None)
    if found is None or found.topic is None:
        raise ConfigurationError(f"app {app.name!r} has no handler {handler!r} of records")
    if isinstance(found.topic.codec, RegistryCodec):
        raise ConfigurationError(
            f"handler {handler!r} takes {found.topic.codec.name} by the schema registry, which is not asked here: {unchecked}"
        )
    registered = found.handler(None)

    def check(record: Record) -> Fits:
        try:
            return fits(registered, record)
        except NotYet as error:
            raise ConfigurationError(f"the payload cannot be checked here ({error}): {unchecked}") from None
        except Exception as error:  # the user's codec or key
            raise ConfigurationError(
                f"the payload is nothing that handler {handler!r} takes: {error}\n  Nothing was changed."
            ) from error

    return check


__all__ = ["check_of"]
