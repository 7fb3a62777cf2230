"""SQL functions as steps of workflows: declared by a function without a body, called like a transaction.

    @app.procedure("shop.reserve")
    async def reserve(order_id: str, quantity: int) -> Reservation: ...

    await reserve("o-1", 3)         in a workflow: the call and its record are one commit, in one round trip

The declaration says how it is called and read back; the function itself lives in the database, and in its migrations.
"""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import FunctionType, NoneType, UnionType
from typing import Any, ParamSpec, Protocol, TypeVar, Union, get_args, get_origin
from uuid import UUID

from engine.errors import ConfigurationError
from engine.procedures import Argument, ProcedureStep
from processor.codec import Result, UnencodableTypeError, result_codec
from processor.decorators import ProcedureFunction
from processor.handlers import annotation_of, checked_name, plain_function, result_of
from processor.options import check_options
from processor.registry import Registry

P = ParamSpec("P")
R = TypeVar("R")

_PLAIN = (str, int, float, bool, bytes, Decimal, datetime, date, time, timedelta, UUID, NoneType)
"""What the driver writes as a type of Postgres. Everything else goes as jsonb."""


class ProcedureDecorator(Protocol):
    """Takes a function, sync or async, that says by its annotations how the SQL function is called."""

    def __call__(self, fn: Callable[P, R], /) -> ProcedureFunction[P, R]:
        """The procedure."""
        ...


class Procedures:
    """Of an app: how it declares SQL functions."""

    @property
    @abstractmethod
    def registry(self) -> Registry:
        """What the app has."""

    def procedure(
        self, procedure: str, *, name: str | None = None, isolation: str = "read committed", rows: bool = False
    ) -> ProcedureDecorator:
        """Call a SQL function as a step: what it does, and the record of its having been called, are one commit.

        Exactly once, as a `transaction`, in one round trip (two where payloads are sealed). Arguments go by their annotations:
        numbers, text, times, bytes, UUIDs and lists of those as they are, everything else (models, dicts) as jsonb. One that a call
        leaves out is left to the SQL function's own default. The result is read as JSON, by the annotation.

        Args:
            procedure: Its name, with its schema or without: 'shop.reserve'. Letters count as they are written.
            name: Name in the history; the function's unless given.
            isolation: Serialization failures and deadlocks run it again at once; they are no attempts.
            rows: It returns a set (SETOF, TABLE): the result is the list of its rows.

        Raises:
            ConfigurationError: At registration: a name that is none, an argument or a result that cannot be written as
                JSON, `rows=` without a list.
        """
        parts = tuple(procedure.split("."))
        if not 1 <= len(parts) <= 2 or not all(parts) or "\0" in procedure:
            raise ConfigurationError(f"procedure {procedure!r}: it takes 'function' or 'schema.function'")

        def decorate(fn: Callable[P, R]) -> ProcedureFunction[P, R]:
            function = plain_function(fn, "procedure")
            check_options(f"procedure {function.__qualname__}", name=name, isolation=isolation)
            result = result_of(function, "procedure")
            if rows and get_origin(annotation_of(function, "return", "procedure")) is not list:
                raise ConfigurationError(f"procedure {function.__qualname__}: rows=True returns a list, `-> list[...]`")
            step = ProcedureStep(
                name=checked_name(name, function, "procedure"),
                function=fn,
                is_async=inspect.iscoroutinefunction(function),
                record=result.record,
                decode=result.decode,
                isolation=isolation,
                procedure=parts,
                arguments=_Arguments(function).of,
                returns_rows=rows,
                returns_nothing=annotation_of(function, "return", "procedure") in (None, NoneType),
            )
            registered = ProcedureFunction[P, R](fn, step)
            self.registry.add_step(registered)
            return registered

        return decorate


class _Arguments:
    """How the arguments of one procedure go to the database."""

    def __init__(self, function: FunctionType) -> None:
        self._signature = inspect.signature(function)
        self._json: dict[str, Result[Any]] = {}
        for parameter in self._signature.parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise ConfigurationError(f"procedure {function.__qualname__}: name its arguments one by one")
            if parameter.name not in function.__annotations__:
                raise ConfigurationError(f"procedure {function.__qualname__}: annotate {parameter.name}")
            annotation = annotation_of(function, parameter.name, "procedure")
            if _is_plain(annotation):
                continue
            try:
                self._json[parameter.name] = result_codec(annotation, f"argument {parameter.name}")
            except UnencodableTypeError as error:
                raise ConfigurationError(
                    f"procedure {function.__qualname__}: argument {parameter.name} cannot be written as JSON: {error}"
                ) from None

    def of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Argument]:
        """The arguments of a call. Raises `TypeError` for what the declaration does not take."""
        bound = self._signature.bind(*args, **kwargs).arguments
        given = list(self._signature.parameters)[: len(args)]
        return [
            Argument(
                None if name in given else name,
                self._json[name].encode(value) if name in self._json else value,
                name in self._json,
            )
            for name, value in bound.items()
        ]


def _is_plain(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, UnionType):
        return all(_is_plain(each) for each in get_args(annotation))
    if get_origin(annotation) is list:
        return all(each in _PLAIN for each in get_args(annotation))
    return annotation is None or annotation in _PLAIN


__all__ = ["ProcedureDecorator", "Procedures"]
