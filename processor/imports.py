"""Functions of the user's that settings name."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import ConfigurationError
from engine.failures import summary


def import_function(target: str, *, setting: str) -> Callable[..., Any]:
    """Import `MODULE:function`; the working directory is searched first, as for the app.

    Raises:
        ConfigurationError: It is not there, or its module cannot be imported; the message names the setting.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"{setting}: {target!r} is no MODULE:function, such as shop.tokens:fetch_token")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), attribute, None)
    except Exception as error:  # the user's module may do anything at all
        raise ConfigurationError(f"{setting}: {module_name!r} cannot be imported: {summary(error)}") from error
    if not callable(found):
        raise ConfigurationError(f"{setting}: {module_name!r} has no function {attribute!r}")
    return found
