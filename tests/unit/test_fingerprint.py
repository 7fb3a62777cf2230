"""The version of a workflow: what changes it, and what does not."""

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from processor.fingerprint import fingerprint

HELPERS = "def total(order):\n    return order + 1\n"
SHOP = '''
from {package} import helpers
from {package}.helpers import total
from processor import App

app = App("shop")

@app.step()
def charge(order: int) -> int:
    return order

@app.workflow()
def fulfil(order: int) -> int:
    """Fulfil an order."""
    # pay first
    return charge(total(order))
'''


@pytest.fixture
def version_of(tmp_path: Path) -> Any:
    """Write a package, import it, and take the fingerprint of its workflow."""
    made: list[str] = []

    def version(shop: str = SHOP, helpers: str = HELPERS) -> str:
        package = f"shop_{len(made)}_{tmp_path.name.replace('-', '_')}"
        made.append(package)
        folder = tmp_path / package
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "helpers.py").write_text(helpers)
        (folder / "main.py").write_text(shop.format(package=package))
        sys.path.insert(0, str(tmp_path))
        try:
            module = importlib.import_module(f"{package}.main")
        finally:
            sys.path.remove(str(tmp_path))
        return _without_name(module.fulfil.fn, package)

    def _without_name(function: Any, package: str) -> str:
        # The packages of this test differ in name only, which is part of what a helper is called.
        for name in [name for name in sys.modules if name.startswith(package)]:
            module = sys.modules.pop(name)
            for value in vars(module).values():
                if isinstance(value, types.FunctionType) and value.__module__.startswith(package):
                    value.__module__ = value.__module__.replace(package, "shop")
        function.__module__ = "shop.main"
        return fingerprint(function)

    return version


def test_comments_docstrings_formatting_and_decorators_do_not_change_it(version_of: Any) -> None:
    original = version_of()

    assert version_of(SHOP.replace("    # pay first\n", "")) == original
    assert version_of(SHOP.replace("Fulfil an order.", "Other words.")) == original
    assert version_of(SHOP.replace("charge(total(order))", "charge(\n        total(order),\n    )")) == original
    assert version_of(SHOP.replace("@app.workflow()", "@app.workflow(name='fulfil')")) == original


def test_another_order_of_calls_changes_it(version_of: Any) -> None:
    assert version_of(SHOP.replace("charge(total(order))", "total(charge(order))")) != version_of()


def test_a_changed_helper_of_the_same_package_changes_it(version_of: Any) -> None:
    changed = HELPERS.replace("+ 1", "+ 2")

    assert version_of(helpers=changed) != version_of()
    through_module = SHOP.replace("charge(total(order))", "charge(helpers.total(order))")
    assert version_of(through_module, changed) != version_of(through_module)


def test_a_steps_body_does_not_change_it_but_its_name_does(version_of: Any) -> None:
    """Its results are in the history; which steps are called is what a replay depends on."""
    assert version_of(SHOP.replace("    return order\n", "    return order * 2\n")) == version_of()
    assert version_of(SHOP.replace("@app.step()", "@app.step(name='pay')")) != version_of()


def test_code_without_source_has_one_too() -> None:
    scope: dict[str, Any] = {}
    exec("def one(): return 1\ndef two(): return 2", scope)  # noqa: S102  # no source, as in an interactive session

    assert fingerprint(scope["one"]) != fingerprint(scope["two"])


def test_functions_that_call_each_other_end() -> None:
    assert fingerprint(_ping) == fingerprint(_ping)


def _ping(n: int) -> int:
    return _pong(n - 1) if n else 0


def _pong(n: int) -> int:
    return _ping(n - 1) if n else 1
