"""A component as its source states it: nothing is imported, neither the component nor torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vtprune.cli.source.classes import (
    Family,
    documentation,
    family_of,
    fields_of,
    find_class,
    find_member,
    kind_of,
    parameter,
)
from vtprune.cli.source.evaluate import Unknown, as_expression, evaluate, reads_self
from vtprune.cli.source.words import DECLARED, Parameter, value_text


@dataclass(frozen=True)
class Fact:
    """What a component declares: its value ("" if unknown), and the expression where it depends on parameters."""

    value: str
    expression: str = ""


@dataclass(frozen=True)
class Description:
    """prose: the docstring without the lines on parameters. facts: by label. unread: bases whose source is not read.
    kind: what the class itself says it is; None if it is no component, as far as its source says."""

    prose: str
    parameters: tuple[Parameter, ...]
    facts: Mapping[str, Fact]
    expected_failures: Mapping[str, str]
    unread: tuple[str, ...] = ()
    kind: str | None = None


def read_component(kind: str, target: str) -> Description:
    """What the source of a component says. kind: as registered; target: ``"module:attribute"``.

    Raises UnreadableError if there is no source, or no class statement in it.
    """
    family = family_of(find_class(target))
    fields = fields_of(family)
    prose, meanings = documentation(family, list(fields))
    parameters, defaults = [], {}
    for name, (statement, module) in fields.items():
        one, value = parameter(name, statement, module, meanings.get(name, ""))
        parameters.append(one)
        if value is not Unknown:
            defaults[name] = value
    facts = {label: fact for label, name in _declared(kind) if (fact := _fact(family, name, defaults)) is not None}
    failures = _expected_failures(family)
    return Description(prose, tuple(parameters), facts, failures, family.unread, kind_of(family))


def _declared(kind: str) -> Iterator[tuple[str, str]]:
    if kind != "task":
        yield "needs", "needs"
    yield from ((label, name) for name, label in DECLARED.get(kind, {}).items())
    if kind == "reducer":
        yield "sites", "sites"
    yield "revision", "revision"


def _fact(family: Family, name: str, defaults: Mapping[str, Any]) -> Fact | None:
    """What a method without arguments, a property or a class variable says; None if nothing defines it."""
    member = find_member(family, name)
    if member is None:
        return None
    statement, owner = member
    if not isinstance(statement, ast.FunctionDef):
        node = getattr(statement, "value", None)
        return None if node is None else _read(node, owner.module, {})
    expression = as_expression(statement.body)
    if expression is not None:
        return _read(expression, owner.module, defaults)
    returns = [node for node in ast.walk(statement) if isinstance(node, ast.Return) and node.value is not None]
    texts = [_shown(node.value) for node in sorted(returns, key=lambda node: node.lineno) if node.value is not None]
    return Fact("", ", or ".join(dict.fromkeys(texts))) if texts else None


def _read(node: ast.expr, module: Any, defaults: Mapping[str, Any]) -> Fact:
    expression = _shown(node) if reads_self(node) else ""
    try:
        return Fact(value_text(evaluate(node, module, defaults)), expression)
    except Unknown:
        return Fact("", expression or _shown(node))


def _shown(node: ast.expr) -> str:
    """An expression as its source has it, without ``self.``."""
    return ast.unparse(node).replace("self.", "")


def _expected_failures(family: Family) -> dict[str, str]:
    """Conformance checks that the class declares to fail, with the reasons; an expression that cannot be read as it is
    written."""
    member = find_member(family, "expected_failures")
    node = getattr(member[0], "value", None) if member else None
    if member is None or node is None:
        return {}
    try:
        return dict(evaluate(node, member[1].module))
    except (Unknown, TypeError, ValueError):
        return {"stated as": ast.unparse(node)}
