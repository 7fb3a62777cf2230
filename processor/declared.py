"""What an app has beside its functions: queues, objects that have a name, roles of all the workflows of a class.

@app.requires("clerk")
class Office:
    @app.workflow()
    async def file(self, paper: str) -> None: ...

    @app.workflow(roles=())
    async def look(self) -> str: ...            anybody may

office = app.instance("main", Office())
"""

from collections.abc import Callable
from typing import TypeVar

from engine.engine import Engine
from engine.errors import ConfigurationError
from engine.identity import checked_roles
from processor.queues import Queue
from processor.registry import Registry
from processor.workflows import workflows_of

Obj = TypeVar("Obj")
Cls = TypeVar("Cls", bound=type)


class Declared:
    """Of an app."""

    _registry: Registry
    engines: list[Engine]

    def register_queue(self, queue: Queue) -> Queue:
        """Have the app's processes take from a queue, as far as the settings let them (`queues.listen`); returns it.

        Its limits are those of the process that started last: all obey the same ones.
        """
        self._registry.add_queue(queue)
        return queue

    def instance(self, name: str, instance: Obj) -> Obj:
        """Give an object a name, under which its methods that are workflows are found again. Returns the object.

        Every process that is to run them gives its own object this name, before the app runs.

        Raises:
            ConfigurationError: The object has no such method, it or the name is taken, or the app runs already.
        """
        if self.engines:
            raise ConfigurationError(f"instance {name!r}: the app runs already; name its objects before")
        owned = {each.class_name for each in workflows_of(instance) if each in self._registry.workflows.values()}
        self._registry.instances.add(name, instance, {owner for owner in owned if owner is not None})
        return instance

    def requires(self, *roles: str) -> Callable[[Cls], Cls]:
        """Decorate a class: one of these roles must somebody have to start a workflow of it that says nothing else (`roles=`).

        They stand for the app's (`App(required_roles=)`); none: anybody may.

        Raises:
            ConfigurationError: The class has no workflow of this app, or one whose records say not whose they are.
        """
        required = checked_roles(f"requires{roles}", roles)

        def decorate(cls: Cls) -> Cls:
            self._registry.require(cls.__name__, required)
            return cls

        return decorate
