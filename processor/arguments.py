"""Arguments of a workflow as JSON text and back, by its function's annotations.

    fulfil.start(order, express=True) ──▶ {"args": [{"order_id": "o-1"}], "kwargs": {"express": true}} ──▶ fulfil(…)

The first run gets what every later one gets: values read back from that text, never the caller's own objects. The TypeScript
SDK of DBOS, which has only positional arguments, writes them as a list.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, cast

from pydantic import ValidationError

from engine.errors import ConfigurationError
from engine.handlers import UndecodableError
from processor import dbos_values
from processor.codec import Result, UnencodableTypeError, result_codec


class CallArguments:
    """The codec of one function's arguments. Raises `ConfigurationError` if one of them cannot be written as JSON."""

    def __init__(
        self, name: str, function: FunctionType, annotation_of: Callable[[str], Any], *, is_method: bool = False
    ) -> None:
        self._name = name
        self._signature = inspect.signature(function)
        if is_method:
            parameters = list(self._signature.parameters.values())[1:]
            self._signature = self._signature.replace(parameters=parameters)
        self._codecs: dict[str, Result[Any]] = {}
        for parameter in self._signature.parameters.values():
            try:
                self._codecs[parameter.name] = result_codec(
                    annotation_of(parameter.name), f"workflow {name!r}: argument {parameter.name}"
                )
            except UnencodableTypeError as error:
                raise ConfigurationError(
                    f"workflow {name!r}: argument {parameter.name} cannot be recorded: {error}"
                ) from None

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The row's `inputs`.

        Raises:
            TypeError: The function does not take these arguments, or one is not what its annotation says.
        """
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"workflow {self._name!r}: {error}") from None
        positional = self._positional(len(args))
        texts = [self._encoded(name, value) for name, value in zip(positional, args, strict=True)]
        named = [f"{json.dumps(key)}: {self._encoded(self._named(key), value)}" for key, value in kwargs.items()]
        return f'{{"args": [{", ".join(texts)}], "kwargs": {{{", ".join(named)}}}}}'

    def decode(self, inputs: str) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Positional and keyword arguments. Raises `UndecodableError` if they are not this function's."""
        try:
            args, kwargs = _call(dbos_values.loads(inputs, of_call=True))
            self._signature.bind(*args, **kwargs)
            positional = self._positional(len(args))
            return (
                [self._decoded(name, value) for name, value in zip(positional, args, strict=True)],
                {key: self._decoded(self._named(key), value) for key, value in kwargs.items()},
            )
        except (ValueError, TypeError, AttributeError) as error:
            problem = str(error).split("\n", 1)[0]
        raise UndecodableError(f"the inputs are none of workflow {self._name!r}: {problem}")

    def _positional(self, count: int) -> list[str]:
        """The parameters that so many positional arguments go to."""
        names: list[str] = []
        for parameter in self._signature.parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                names += [parameter.name] * (count - len(names))
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                names.append(parameter.name)
        return names[:count]

    def _named(self, key: str) -> str:
        """The parameter that a keyword argument goes to."""
        parameters = self._signature.parameters
        if key in parameters and parameters[key].kind is not inspect.Parameter.VAR_KEYWORD:
            return key
        return next(each.name for each in parameters.values() if each.kind is each.VAR_KEYWORD)

    def _encoded(self, name: str, value: Any) -> str:
        return self._codecs[name].encode(value)

    def _decoded(self, name: str, value: Any) -> Any:
        try:
            return self._codecs[name].read(json.dumps(value))
        except ValidationError as error:
            problem = str(error).replace("\n", " ")
        raise ValueError(f"argument {name}: {problem}")


def _call(stored: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Positional and keyword arguments of stored inputs."""
    if isinstance(stored, list):
        return cast("list[Any]", stored), {}
    return stored.get("args", []), stored.get("kwargs", {})
