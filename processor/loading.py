"""Settings from where they are kept: environment over file over defaults, or an error that names each mistake.

file ──${NAME}──▶ tree ◀── PROCESSOR_<SECTION>_<SETTING>
                   │
                   └──▶ validate ──▶ Settings, or SettingsError with every problem and the nearest known name

Only `load_settings` reads anything; it reads once.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from engine.errors import ConfigurationError
from processor.config import Settings
from processor.secrecy import Filled

PREFIX = "PROCESSOR_"
FILE_VARIABLE = "PROCESSOR_CONFIG"
"""Names the settings file."""
DEFAULT_FILES = ("processor.yaml", "processor.yml", "processor.toml")
"""Looked for in the working directory when no file is named."""
OTHER_VARIABLES = frozenset({FILE_VARIABLE, "PROCESSOR_CRASH_AT"})
"""Variables with our prefix that are no settings."""

# A Service called 'processor' gives every pod of its namespace variables like these (Kubernetes service links).
_SERVICE_LINK = re.compile(r"PROCESSOR(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
_REFERENCE = re.compile(r"\$(?:\$(?=\{)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})")

Tree = dict[str, Any]
Path_ = tuple[str, ...]


class SettingsError(ConfigurationError):
    """Settings cannot be used. The message has one line for each problem, with the place to mend it."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("the settings cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: where it is in the tree, and what the variable is called."""

    path: Path_
    field: FieldInfo

    @property
    def key(self) -> str:
        """As in a file: `kafka.sasl.password`."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """As in the environment: `PROCESSOR_KAFKA_SASL_PASSWORD`."""
        return PREFIX + "_".join(self.path).upper()


def all_settings(model: type[BaseModel] = Settings, above: Path_ = ()) -> Iterator[Setting]:
    """Every setting there is, in the order of the reference."""
    for name, field in model.model_fields.items():
        path = (*above, field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from all_settings(field.annotation, path)
        else:
            yield Setting(path, field)


def load_settings(file: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process.

    Args:
        file: Settings file (.yaml, .yml, .toml). `None`: what PROCESSOR_CONFIG names, else `processor.yaml` or
            `processor.toml` of the working directory, else none.
        environ: Instead of the process's environment.

    Raises:
        SettingsError: With every problem at once. Two files in the working directory are one.
    """
    environ = os.environ if environ is None else environ
    chosen = _file(file, environ)
    tree = _interpolated(_read(chosen), environ, chosen.name) if chosen else {}
    _drop_empty_sections(tree, Settings)
    variables = _from_environment(environ)
    for setting, value in variables:
        _put(tree, setting.path, value)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        names = {setting.path: setting.variable for setting, _ in variables}
        details = error.errors(include_url=False, include_context=False, include_input=False)
        source = f"{chosen.name}: " if chosen else ""
        raise SettingsError([_problem(detail, names, source) for detail in details]) from None


def override(settings: Settings, values: Mapping[str, Mapping[str, Any]]) -> Settings:
    """The same settings with some values of some sections replaced. Raises `SettingsError` as `load_settings` does."""
    changed: dict[str, Any] = {}
    for section, replaced in values.items():
        known: BaseModel = getattr(settings, section)
        tree = {field.alias or name: getattr(known, name) for name, field in type(known).model_fields.items()}
        changed[section] = type(known).model_validate(tree | dict(replaced))
    return settings.model_copy(update=changed)


def _file(given: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = given or (Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else None)
    if named is not None:
        if not named.is_file():
            raise SettingsError([f"{named}: there is no such file"])
        return named
    there = [path for name in DEFAULT_FILES if (path := Path(name)).exists()]
    if len(there) > 1:
        names = " and ".join(map(str, there))
        raise SettingsError(
            [f"{names} are both here, and only one can count: remove the others, or name one ({FILE_VARIABLE})"]
        )
    if there and not there[0].is_file():
        raise SettingsError([f"{there[0]} is here, and is no file"])
    return there[0] if there else None


def _read(file: Path) -> Tree:
    try:
        text = file.read_text(encoding="utf-8")
        loaded: object = tomllib.loads(text) if file.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        # A YAML error shows the line it stumbled over, which may hold a secret: only where, and what was expected.
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or (type(error).__name__ if isinstance(error, yaml.YAMLError) else error)
        raise SettingsError([f"{file}{where}: cannot be read: {what}"]) from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise SettingsError([f"{file}: a settings file is a mapping of sections, this is a {type(loaded).__name__}"])
    return cast("Tree", loaded)


def _interpolated(tree: Tree, environ: Mapping[str, str], source: str) -> Tree:
    """Fill in `${NAME}` and `${NAME:-default}`; `$${` is a plain `${`. What is neither, or not set, is an error."""
    problems: list[str] = []

    def fill(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            items = cast("dict[Any, Any]", value).items()
            return {str(key): fill(item, f"{path}.{key}" if path else str(key)) for key, item in items}
        if isinstance(value, list):
            return [fill(item, f"{path}[{place}]") for place, item in enumerate(cast("list[Any]", value))]
        if not isinstance(value, str):
            return value
        filled = _filled(value, environ, f"{source}: {path}", problems)
        # A command is shown, and what it is filled with may be a secret.
        return Filled.of(filled, value) if path.startswith(("migrate[", "rollback[")) else filled

    filled = fill(tree, "")
    if problems:
        raise SettingsError(problems)
    return filled


def _filled(text: str, environ: Mapping[str, str], place: str, problems: list[str]) -> str:
    def replace(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name is None:
            return "$"
        found = environ.get(name)
        if found or (found is not None and default is None):
            return found
        if default is None:
            problems.append(f"{place}: the variable {name} is not set; ${{{name}:-default}} gives a default")
        return default or ""

    if "${" in _REFERENCE.sub("|", text):
        # Without the text, which may hold a secret as well.
        problems.append(f"{place}: a '${{' without NAME and '}}' after it; '$${{' is a plain one")
        return text
    return _REFERENCE.sub(replace, text)


def _from_environment(environ: Mapping[str, str]) -> list[tuple[Setting, Any]]:
    known = {setting.variable: setting for setting in all_settings()}
    found: list[tuple[Setting, Any]] = []
    problems: list[str] = []
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX) or name in OTHER_VARIABLES:
            continue
        if setting := known.get(name):
            try:
                found.append((setting, _parsed(setting, value)))
            except ValueError as error:
                problems.append(f"{name}: {error}")
        elif not _SERVICE_LINK.fullmatch(name):
            problems.append(f"{name}: there is no such setting{_nearest(name, known)}")
    if problems:
        raise SettingsError(problems)
    return found


def _parsed(setting: Setting, value: str) -> Any:
    """Text as it is; maps and lists as JSON; nothing for an empty value where nothing is allowed."""
    kind = str(setting.field.annotation)
    if kind.startswith(("dict", "tuple")):
        try:
            return json.loads(value) if value.strip() else {} if kind.startswith("dict") else []
        except ValueError:
            raise ValueError('is written as JSON, {"key": "value"} or ["item"]') from None
    return None if value == "" and setting.field.default is None else value


def _drop_empty_sections(tree: Tree, model: type[BaseModel]) -> None:
    """A section all of whose lines are comments is nothing to YAML, and says nothing."""
    for name, field in model.model_fields.items():
        kind, key = field.annotation, field.alias or name
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)) or key not in tree:
            continue
        if tree[key] is None:
            del tree[key]
        elif isinstance(tree[key], dict):
            _drop_empty_sections(cast("Tree", tree[key]), kind)


def _put(tree: Tree, path: Path_, value: Any) -> None:
    for part in path[:-1]:
        section = tree.setdefault(part, {})
        if not isinstance(section, dict):
            return  # the file has something else there, which is refused as it stands
        tree = cast("Tree", section)
    tree[path[-1]] = value


def _problem(detail: ErrorDetails, variables: Mapping[Path_, str], source: str) -> str:
    path = tuple(str(part) for part in detail["loc"])
    place = variables.get(path) or next((v for p, v in variables.items() if path[: len(p)] == p), None)
    within = sorted(v for p, v in variables.items() if len(p) > len(path) and p[: len(path)] == path)
    among = (
        f", with {', '.join(within)}" if path and within else ""
    )  # a rule of a section, about several of its settings
    in_file = f"{source}{'.'.join(path) or 'as a whole'}"
    where = place or f"{in_file}{among}"
    if detail["type"] == "extra_forbidden":
        siblings = {".".join((*path[:-1], name)) for name in _fields(path[:-1])}
        everywhere = {setting.path[-1]: setting.key for setting in all_settings()}
        elsewhere = everywhere.get(path[-1])
        hint = _nearest(".".join(path), siblings) or (f"; did you mean {elsewhere}?" if elsewhere else "")
        return f"{where}: there is no such setting{hint}"
    if detail["type"] == "model_type":
        return f"{in_file}: this is a section, with settings of its own: {', '.join(_fields(path))}"
    if detail["type"] == "tuple_type":
        what = "a list of commands" if path[0] in {"migrate", "rollback"} and len(path) == 1 else "a list"
        return f"{where}: this is {what}, also where there is only one"
    return f"{where}: {detail['msg'].removeprefix('Value error, ')}"


def _fields(path: Path_) -> list[str]:
    """Names that the section at `path` knows."""
    model: type[BaseModel] = Settings
    parts = iter(path)
    for part in parts:
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        kind = None if field is None else field.annotation
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]  # sections under names of the user's choice: the next part is one
            next(parts, None)
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return []
        model = kind
    return [field.alias or name for name, field in model.model_fields.items()]


def _nearest(name: str, known: Mapping[str, object] | set[str]) -> str:
    matches = get_close_matches(name, known, n=1, cutoff=0.7)
    return f"; did you mean {matches[0]}?" if matches else ""
