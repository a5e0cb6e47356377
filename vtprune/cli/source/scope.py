"""What a name in a module stands for, followed through imports to the statement that defines it."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache

from vtprune.core.sources import UnreadableError, source_of, spec_of

CLOSED = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "torch", "transformers", "numpy", "PIL"}
"""Packages that are large and known: their names are known by name, their source is never read."""


@dataclass(frozen=True, eq=False)
class Module:
    """A parsed module. names: to the statement that binds them, the last one where there are several."""

    name: str
    package: str
    tree: ast.Module
    names: dict[str, ast.stmt] = field(default_factory=dict)
    stars: tuple[ast.ImportFrom, ...] = ()


@dataclass(frozen=True)
class Definition:
    """A statement that defines something, and the module it stands in."""

    module: Module
    node: ast.stmt


@dataclass(frozen=True)
class External:
    """Something that is not read: ``pydantic.Field``, ``builtins.frozenset``."""

    path: str


@cache
def parsed(name: str) -> Module:
    """A module's source, parsed; raises UnreadableError."""
    text, is_package = source_of(name)
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UnreadableError(f"the source of {name} has a syntax error in line {error.lineno}: {error.msg}") from error
    names: dict[str, ast.stmt] = {}
    stars = []
    for statement in _flat(tree.body):
        names.update(dict.fromkeys(_bound(statement), statement))
        if isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*":
            stars.append(statement)
    return Module(name, name if is_package else name.rpartition(".")[0], tree, names, tuple(stars))


def _flat(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those under ``if``, ``try`` and ``with`` included; a handler's before the rest of its
    ``try``, so that the first choice counts."""
    for statement in body:
        if isinstance(statement, ast.Try):
            for handler in statement.handlers:
                yield from _flat(handler.body)
            yield from _flat([*statement.body, *statement.orelse, *statement.finalbody])
        elif isinstance(statement, ast.If):
            yield from _flat([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.With):
            yield from _flat(statement.body)
        else:
            yield statement


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement binds."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield statement.name
    elif isinstance(statement, ast.Assign):
        yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id
    elif isinstance(statement, ast.Import):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in statement.names)
    elif isinstance(name := getattr(statement, "name", None), ast.Name):  # `type X = ...`, from Python 3.12
        yield name.id


def dotted(node: ast.AST) -> str | None:
    """``a.b.c`` of a name or of attributes of one, else None."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (inner := dotted(node.value)) is not None:
        return f"{inner}.{node.attr}"
    return None


def resolve(module: Module, name: str) -> Definition | External:
    """What a dotted name stands for in a module; raises UnreadableError if that cannot be told from the source."""
    return _resolve(module, name, frozenset())


def _resolve(module: Module, name: str, seen: frozenset[tuple[str, str]]) -> Definition | External:
    if (key := (module.name, name)) in seen:
        raise UnreadableError(f"{name} in {module.name} is imported in a circle")
    seen |= {key}
    head, _, rest = name.partition(".")
    statement = module.names.get(head)
    if isinstance(statement, ast.ImportFrom):
        alias = next(alias for alias in statement.names if (alias.asname or alias.name) == head)
        source = _absolute(module, statement)
        return _imported(source, ".".join(filter(None, (alias.name, rest))), seen)
    if isinstance(statement, ast.Import):
        alias = next(one for one in statement.names if (one.asname or one.name.partition(".")[0]) == head)
        return _imported(alias.name if alias.asname else head, rest, seen)
    if statement is not None and not rest:
        return Definition(module, statement)
    if statement is not None:
        raise UnreadableError(f"{name} in {module.name} is an attribute that only running it tells")
    for star in module.stars:
        source = _absolute(module, star)
        if not _is_closed(source) and head in parsed(source).names:
            return _resolve(parsed(source), name, seen)
    if hasattr(builtins, head) and not rest:
        return External(f"builtins.{head}")
    raise UnreadableError(f"{module.name} does not define {head!r} in a way that can be read")


def _imported(source: str, name: str, seen: frozenset[tuple[str, str]]) -> Definition | External:
    """``name`` of the module ``source``, which may also be a module inside that package."""
    if _is_closed(source):
        return External(f"{source}.{name}")
    head, _, rest = name.partition(".")
    module = parsed(source)
    if head not in module.names and spec_of(f"{source}.{head}") is not None:
        if not rest:
            return External(f"{source}.{head}")
        return _imported(f"{source}.{head}", rest, seen)
    return _resolve(module, name, seen)


def _absolute(module: Module, statement: ast.ImportFrom) -> str:
    """The module that an import names, without leading dots."""
    if not statement.level:
        return statement.module or ""
    parts = module.package.split(".")
    base = ".".join(parts[: len(parts) - statement.level + 1])
    return f"{base}.{statement.module}" if statement.module else base


def _is_closed(source: str) -> bool:
    top = source.partition(".")[0]
    return top in CLOSED or top in sys.stdlib_module_names
