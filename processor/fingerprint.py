"""The version of a workflow: a fingerprint of the code that decides what it calls, in which order.

A workflow is replayed from its history by the code there is; code of another fingerprint may ask for other steps.
In it: the workflow function, and the functions of the same package that it calls, directly or through each other.
Left out: comments, docstrings, formatting, decorators; and the bodies of steps and transactions, whose results are
in the history (their names are in: a renamed step is another one). What is called through an object, or defined in
another package, is not seen: give `version=` where that matters.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from hashlib import blake2b
from types import FunctionType, ModuleType
from typing import Any

from processor.decorators import ProcedureFunction, StepFunction, TransactionFunction

FUNCTIONS_MAX = 1_000
"""Functions looked at for one workflow. One that reaches more is no workflow but a program: `version=`."""


def fingerprint(function: FunctionType) -> str:
    """16 hexadecimal digits. The same for the same code, whatever the machine or the path."""
    package = _package(function)
    parts: dict[str, str] = {}
    waiting = [function]
    while waiting and len(parts) < FUNCTIONS_MAX:
        current = waiting.pop()
        name = f"{current.__module__}:{current.__qualname__}"
        if name in parts:
            continue
        parts[name], tree = _normal_form(current)
        for called in _called(current, tree):
            if isinstance(called, FunctionType):
                if _package(called) == package:
                    waiting.append(called)
            elif isinstance(called, StepFunction | TransactionFunction | ProcedureFunction):
                parts[f"step {called.name}"] = ""
    digest = blake2b(digest_size=8)
    # By name, so that the order of discovery does not matter; the workflow itself by its place, so that it may move.
    first = f"{function.__module__}:{function.__qualname__}"
    digest.update(parts.pop(first).encode())
    for name in sorted(parts):
        digest.update(f"\0{name}\0{parts[name]}".encode())
    return digest.hexdigest()


def _package(function: FunctionType) -> str:
    return str(function.__module__).partition(".")[0]


def _normal_form(function: FunctionType) -> tuple[str, ast.AST | None]:
    """The code's text without what does not matter, and its tree."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        # No source (an interactive session, a lambda in the middle of a call): its instructions then.
        code = function.__code__
        return f"{code.co_code.hex()} {code.co_names} {[c for c in code.co_consts if isinstance(c, str | int)]}", None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.decorator_list = []
            if node is tree.body[0]:
                node.name = "_"  # renaming the function is harmless: what is recorded is the workflow's name
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    # Unparsed, not dumped: the shape of a dump changes between Python versions, the text hardly ever.
    return ast.unparse(tree), tree


def _called(function: FunctionType, tree: ast.AST | None) -> Iterator[Any]:
    """The objects that stand before the brackets of a call or are handed on by name, as far as names lead."""
    scope = {**function.__globals__, **_closure(function)}
    if tree is None:
        yield from (scope[name] for name in function.__code__.co_names if name in scope)
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            found = _resolve(node, scope)
            if found is not None:
                yield found


def _resolve(node: ast.expr, scope: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return scope.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, scope)
        # Through modules only: asking any other object for an attribute may run code of the user's.
        return vars(owner).get(node.attr) if isinstance(owner, ModuleType) else None
    return None


def _closure(function: FunctionType) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    found: dict[str, Any] = {}
    for name, cell in cells:
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found
