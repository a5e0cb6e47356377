"""Annotations in words, read from their source: the type, and the bounds of its values."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vtprune.cli.source.evaluate import Unknown, evaluate
from vtprune.cli.source.scope import Definition, External, Module, dotted, resolve
from vtprune.cli.source.words import BOUNDS
from vtprune.core.sources import UnreadableError

_GENERIC = {"List": "list", "Dict": "dict", "Tuple": "tuple", "Set": "set", "FrozenSet": "frozenset", "Type": "type"}
"""Names in typing whose run-time type is called otherwise."""
_PYDANTIC: dict[str, tuple[str, dict[str, Any]]] = {
    f"{word}{kind.title()}": (kind, bound)
    for kind in ("int", "float")
    for word, bound in {
        "Positive": {"gt": 0},
        "Negative": {"lt": 0},
        "NonNegative": {"ge": 0},
        "NonPositive": {"le": 0},
        "Strict": {},
        "Finite": {},
    }.items()
} | {"StrictStr": ("str", {}), "StrictBool": ("bool", {})}
"""Types of pydantic that are another one with a constraint."""
_CONSTRAINTS = {"Ge": "ge", "Gt": "gt", "Le": "le", "Lt": "lt", "MultipleOf": "multiple_of"} | {
    "MinLen": "min_length",
    "MaxLen": "max_length",
}
"""Constraints of annotated_types, with one value each."""

Placed = tuple[ast.expr, Module]
"""An expression, and the module in whose scope it stands."""


@dataclass(frozen=True)
class Stated:
    """What is said of a field beside its type: bounds (see `BOUNDS`), description, default, or what makes it."""

    bounds: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    default: Placed | None = None
    factory: Placed | None = None

    def then(self, other: Stated) -> Stated:
        """Both; where they differ, ``other``."""
        return Stated(
            {**self.bounds, **other.bounds},
            other.description or self.description,
            other.default or self.default,
            other.factory or self.factory,
        )


def type_text(node: ast.expr, module: Module) -> str:
    """An annotation for people: ``'last' | 'text'``, ``list of int``, ``scorer``."""
    node, module = _unfolded(node, module)
    if isinstance(node, ast.Constant):
        return "null" if node.value is None else repr(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _joined([(node.left, module), (node.right, module)])
    if isinstance(node, ast.Subscript):
        return _subscript(node, module)
    if (name := _external(node, module)) is not None:
        last = name.rpartition(".")[2]
        return _PYDANTIC[last][0] if name.startswith("pydantic.") and last in _PYDANTIC else _GENERIC.get(last, last)
    found = _definition(node, module)
    if found is not None and isinstance(found.node, ast.ClassDef):
        from vtprune.cli.source.classes import Class, family_of, kind_of

        return kind_of(family_of(Class(found.module, found.node))) or found.node.name
    return ast.unparse(node)


def stated_by(node: ast.expr, module: Module) -> Stated:
    """What an annotation says of a field beside its type."""
    node, module = _unfolded(node, module)
    if isinstance(node, ast.Subscript) and (_external(node.value, module) or "").endswith(".Annotated"):
        first, *rest = _elements(node.slice)
        found = stated_by(first, module)
        for one in rest:
            found = found.then(stated_in(one, module))
        return found
    name = (_external(node, module) or "").removeprefix("pydantic.")
    return Stated(_PYDANTIC[name][1]) if name in _PYDANTIC else Stated()


def stated_in(node: ast.expr, module: Module) -> Stated:
    """What ``Field(3, ge=0, description="...")`` says, or a constraint of annotated_types."""
    name = _external(node.func, module) if isinstance(node, ast.Call) else None
    package, _, last = (name or "").rpartition(".")
    if not isinstance(node, ast.Call) or package not in ("pydantic", "pydantic.fields", "annotated_types"):
        return Stated()
    given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    if last in _CONSTRAINTS and node.args:
        given[_CONSTRAINTS[last]] = node.args[0]
    elif last == "Len":
        given |= dict(zip(("min_length", "max_length"), node.args, strict=False))
    elif last == "Field" and node.args:
        given["default"] = node.args[0]
    bounds = {name: value for name in BOUNDS if name in given and (value := _value(given[name], module)) is not None}
    words = str(_value(given["description"], module)) if "description" in given else ""
    default, factory = (
        (made, module) if (made := given.get(name)) is not None and not _is_ellipsis(made) else None
        for name in ("default", "default_factory")
    )
    return Stated(bounds, words, default, factory)


def is_class_variable(node: ast.expr, module: Module) -> bool:
    """Whether an annotation says that a name is no field."""
    while isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    outer = node.value if isinstance(node, ast.Subscript) else node
    return (_external(outer, module) or "") in ("typing.ClassVar", "typing_extensions.ClassVar")


def _subscript(node: ast.Subscript, module: Module) -> str:
    name = (_external(node.value, module) or dotted(node.value) or ast.unparse(node.value)).rpartition(".")[2]
    arguments = [(one, module) for one in _elements(node.slice)]
    if name == "Annotated":
        return type_text(*arguments[0])
    if name == "Literal":
        return " | ".join(_literal(one, module) for one, _ in arguments)
    if name == "Optional":
        return f"{type_text(*arguments[0])} | null"
    if name == "Union":
        return _joined(arguments)
    inner = [type_text(*one) for one in arguments if not _is_ellipsis(one[0])]
    return f"{_GENERIC.get(name, name)} of {', '.join(inner)}"


def _literal(node: ast.expr, module: Module) -> str:
    try:
        return repr(evaluate(node, module))
    except Unknown:
        return ast.unparse(node)


def _joined(parts: list[Placed]) -> str:
    return " | ".join(dict.fromkeys(type_text(*part) for part in parts))


def _unfolded(node: ast.expr, module: Module) -> Placed:
    """An annotation with quotes taken off and aliases followed, and the module in which it then stands."""
    for _ in range(20):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
            continue
        found = _definition(node, module)
        value = None if found is None else getattr(found.node, "value", None)
        if found is None or isinstance(found.node, ast.ClassDef) or not isinstance(value, ast.expr):
            break
        node, module = value, found.module
    return node, module


def _resolved(node: ast.expr, module: Module) -> Definition | External | None:
    """What a dotted name stands for; None for another expression, and for a name that leads nowhere."""
    name = dotted(node)
    if name is None:
        return None
    try:
        return resolve(module, name)
    except UnreadableError:
        return None


def _definition(node: ast.expr, module: Module) -> Definition | None:
    found = _resolved(node, module)
    return found if isinstance(found, Definition) else None


def _external(node: ast.expr, module: Module) -> str | None:
    """The full name of something that is not read, or None."""
    found = _resolved(node, module)
    return None if found is None or isinstance(found, Definition) else found.path


def _elements(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is Ellipsis


def _value(node: ast.expr, module: Module) -> Any:
    try:
        return evaluate(node, module)
    except Unknown:
        return ast.unparse(node)
