"""Finds the app that a command line names, and says clearly why it cannot."""

import argparse
import importlib
import os
import re
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError, EngineError

if TYPE_CHECKING:
    from processor.app import App

DEFAULT_ATTRIBUTE = "app"


def add_app_argument(parser: argparse.ArgumentParser) -> None:
    """`MODULE:app`."""
    parser.add_argument(
        "app", metavar="MODULE:app", help="where the App is: a module, found from here, and a name in it (default: app)"
    )


def load_app(target: str) -> "App":
    """Import the module and take the App. The working directory is searched first, as `python -m` does.

    Raises:
        ConfigurationError: There is no such module or App, or the module cannot be imported.
    """
    from processor.app import App

    module_name, _, attribute = target.partition(":")
    attribute = attribute or DEFAULT_ATTRIBUTE
    if not module_name or module_name.startswith(".") or "/" in module_name or module_name.endswith(".py"):
        raise ConfigurationError(
            f"{target!r} is no MODULE:app. Name the module as Python imports it, from {Path.cwd()}:\n"
            f"  shop.main:app for shop/main.py."
        )
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except EngineError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"there is no module {module_name!r} here.\n"
                f"  Name it as Python imports it, from {here}: shop.main:app for shop/main.py."
            ) from None
        raise ConfigurationError(_broken(module_name, error)) from error
    except (Exception, SystemExit) as error:  # the user's module may do anything at all
        raise ConfigurationError(_broken(module_name, error)) from error
    found = getattr(module, attribute, None)
    if isinstance(found, App):
        return found
    apps = [name for name, value in vars(module).items() if isinstance(value, App)]
    nearest = get_close_matches(attribute, apps, n=1, cutoff=0.0)
    hint = f"did you mean {module_name}:{nearest[0]}?" if nearest else "it has no App at all."
    raise ConfigurationError(f"{module_name}: {attribute!r} is no App; {hint}")


def _broken(module: str, error: BaseException) -> str:
    """An error of the user's code, with the place in it."""
    ours = tuple(str(Path(__file__).parents[2] / root) + os.sep for root in ("processor", "engine", "consumers"))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        # Neither the machinery of imports, nor a dataclass's "<string>", nor ours: the line that its writer can mend.
        if "importlib" not in frame.filename and not frame.filename.startswith(("<string>", *ours))
    ]
    place = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
    hint = "\n  A decorator of an app is called: @app.step(), @app.workflow(on=...)." if _uncalled(error) else ""
    return f"module {module!r} cannot be imported: {place}{type(error).__name__}: {error}{hint}"


def _uncalled(error: BaseException) -> bool:
    """Whether a decorator was written without its brackets: Python's message does not say so."""
    return (
        isinstance(error, TypeError) and re.match(r"App\.\w+\(\) takes 1 positional argument", str(error)) is not None
    )
