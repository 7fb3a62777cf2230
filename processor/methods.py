"""Methods as workflows: of objects that have a name, by which they are found again after a crash.

    class Gate:
        @app.workflow()
        async def open(self, order: str) -> str: ...

    eu = app.instance("eu", Gate("https://eu"))
    await eu.open.start("o-1")          class_name 'Gate', config_name 'eu'

The row says whose method it is; it is run by a process that has an object of that name, and called on that one.
"""

import inspect
from types import FunctionType
from typing import Any

from engine.errors import ConfigurationError

NAME_MAX = 255
"""Characters of `class_name` and `config_name`."""


def class_of(fn: FunctionType) -> str | None:
    """The class in whose body a function is defined: its qualified name has it before its own."""
    owner = fn.__qualname__.rpartition(".")[0]
    return None if not owner or owner.endswith("<locals>") else owner.rpartition(".")[2]


def is_method(fn: FunctionType) -> bool:
    """Whether a function is called on an object. A static method is a function that is found in its class."""
    return class_of(fn) is not None and next(iter(inspect.signature(fn).parameters), "") == "self"


class Instances:
    """The objects of an app that have names."""

    def __init__(self) -> None:
        self._by_class: dict[str, dict[str, Any]] = {}
        self._names: dict[int, str] = {}

    def of(self, class_name: str) -> dict[str, Any]:
        """Those whose methods of this class are workflows, by name; more may come."""
        return self._by_class.setdefault(class_name, {})

    def add(self, name: str, instance: object, class_names: set[str]) -> None:
        """Give an object its name. Raises `ConfigurationError` if it or the name is taken."""
        if not name or len(name) > NAME_MAX or "\0" in name:
            raise ConfigurationError(f"instance {name[:50]!r}: a name of 1 to {NAME_MAX} characters, without NUL")
        if not class_names:
            raise ConfigurationError(
                f"instance {name!r}: {type(instance).__name__} has no method that is a workflow of this app"
            )
        if self._names.get(id(instance), name) != name:
            raise ConfigurationError(f"instance {name!r}: the object is {self._names[id(instance)]!r} already")
        for class_name in class_names:
            if self.of(class_name).get(name, instance) is not instance:
                raise ConfigurationError(f"instance {name!r}: another {class_name} has that name")
        for class_name in class_names:
            self.of(class_name)[name] = instance
        self._names[id(instance)] = name

    def name_of(self, instance: object, what: str) -> str:
        """An object's name. Raises `ConfigurationError` if it has none: after a crash nobody would find it."""
        try:
            return self._names[id(instance)]
        except KeyError:
            raise ConfigurationError(
                f"{what}: its {type(instance).__name__} has no name, by which it is found after a crash.\n"
                f"  Give it one before the app runs: app.instance('name', {type(instance).__name__}(...))"
            ) from None
