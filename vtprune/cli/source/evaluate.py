"""The value of an expression in the source, where it can be told without running the source."""

from __future__ import annotations

import ast
import copy
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vtprune.cli.source.scope import Definition, External, Module, dotted, resolve
from vtprune.core.sources import UnreadableError

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda value, group: value in group,
    ast.NotIn: lambda value, group: value not in group,
}
_MAKERS: Mapping[str, Callable[..., Any]] = {
    "frozenset": frozenset,
    "set": set,
    "tuple": tuple,
    "list": list,
    "dict": dict,
    "sorted": sorted,
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "len": len,
    "any": any,
    "all": all,
    "min": min,
    "max": max,
}
"""Builtins that are called; none of them has an effect."""
_NEED = "vtprune.core.signals"


class Unknown(Exception):
    """The value depends on something that only running the source tells."""


def evaluate(node: ast.expr, module: Module, known: Mapping[str, Any] | None = None) -> Any:
    """The value of an expression; raises Unknown.

    known: values of local names and of ``self.NAME``. A `Need` is given as the text it prints as.
    """
    try:
        return _Evaluator(module, known or {}).value(node)
    except (TypeError, ValueError, KeyError, IndexError, ArithmeticError, AttributeError, RecursionError) as error:
        raise Unknown(f"{ast.unparse(node)}: {error}") from error


def reads_self(node: ast.AST) -> bool:
    """Whether an expression depends on the instance."""
    return any(isinstance(inner, ast.Name) and inner.id == "self" for inner in ast.walk(node))


def as_expression(body: Sequence[ast.stmt]) -> ast.expr | None:
    """What a function returns, as one expression, or None: for bodies of assignments to local names, ``if`` and
    ``return``."""
    if not body:
        return None
    first, rest = body[0], body[1:]
    if isinstance(first, ast.Return):
        return first.value or ast.Constant(None)
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return as_expression(rest)
    if isinstance(first, ast.Assign) and len(first.targets) == 1 and isinstance(first.targets[0], ast.Name):
        after = as_expression(rest)
        return None if after is None else _Inline(first.targets[0].id, first.value).visit(copy.deepcopy(after))
    if isinstance(first, ast.If):
        yes, no = as_expression([*first.body, *rest]), as_expression([*first.orelse, *rest])
        return None if yes is None or no is None else ast.IfExp(first.test, yes, no)
    return None


class _Inline(ast.NodeTransformer):
    """Puts an expression in the place of a local name."""

    def __init__(self, name: str, value: ast.expr) -> None:
        self.name, self.replacement = name, value

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.replacement if node.id == self.name else node


class _Evaluator:
    def __init__(self, module: Module, known: Mapping[str, Any]) -> None:
        self.module, self.known = module, known

    def value(self, node: ast.expr | None) -> Any:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise Unknown(type(node).__name__)
        return method(node)

    def _constant(self, node: ast.Constant) -> Any:
        return node.value

    def _name(self, node: ast.Name) -> Any:
        return self.known[node.id] if node.id in self.known else self._global(node.id)

    def _attribute(self, node: ast.Attribute) -> Any:
        name = dotted(node)
        if name is None:
            raise Unknown(ast.unparse(node))
        if name.startswith("self."):
            if name.removeprefix("self.") not in self.known:
                raise Unknown(name)
            return self.known[name.removeprefix("self.")]
        return self._global(name)

    def _global(self, name: str) -> Any:
        """A constant of this or another module."""
        found = self._resolved(name)
        if isinstance(found, Definition) and isinstance(found.node, ast.Assign | ast.AnnAssign) and found.node.value:
            return _Evaluator(found.module, {}).value(found.node.value)
        if found == External("math.inf"):
            return float("inf")
        raise Unknown(name)

    def _resolved(self, name: str) -> Definition | External:
        try:
            return resolve(self.module, name)
        except UnreadableError as error:
            raise Unknown(str(error)) from error

    def _tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self._each(node.elts))

    def _list(self, node: ast.List) -> list[Any]:
        return list(self._each(node.elts))

    def _set(self, node: ast.Set) -> frozenset[Any]:
        return frozenset(self._each(node.elts))

    def _each(self, nodes: list[ast.expr]) -> Iterator[Any]:
        for node in nodes:
            if isinstance(node, ast.Starred):
                yield from self.value(node.value)
            else:
                yield self.value(node)

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            found.update(self.value(value) if key is None else {self.value(key): self.value(value)})
        return found

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        if type(node.op) not in _UNARY:
            raise Unknown(ast.unparse(node))
        return _UNARY[type(node.op)](self.value(node.operand))

    def _binop(self, node: ast.BinOp) -> Any:
        if type(node.op) not in _BINARY:
            raise Unknown(ast.unparse(node))
        return _BINARY[type(node.op)](self.value(node.left), self.value(node.right))

    def _boolop(self, node: ast.BoolOp) -> Any:
        found: Any = None
        for one in node.values:
            found = self.value(one)
            if bool(found) is isinstance(node.op, ast.Or):
                break
        return found

    def _compare(self, node: ast.Compare) -> bool:
        left = self.value(node.left)
        for sign, other in zip(node.ops, node.comparators, strict=True):
            right = self.value(other)
            if not _COMPARE[type(sign)](left, right):
                return False
            left = right
        return True

    def _ifexp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    def _generatorexp(self, node: ast.GeneratorExp | ast.SetComp | ast.ListComp) -> list[Any]:
        (loop,) = node.generators
        if not isinstance(loop.target, ast.Name):
            raise Unknown(ast.unparse(node))
        found = []
        for item in self.value(loop.iter):
            inner = _Evaluator(self.module, {**self.known, loop.target.id: item})
            if all(inner.value(test) for test in loop.ifs):
                found.append(inner.value(node.elt))
        return found

    _listcomp = _generatorexp

    def _setcomp(self, node: ast.SetComp) -> frozenset[Any]:
        return frozenset(self._generatorexp(node))

    def _call(self, node: ast.Call) -> Any:
        name = dotted(node.func)
        found = None if name is None else self._resolved(name)
        if isinstance(found, Definition) and isinstance(found.node, ast.ClassDef):
            if (found.module.name, found.node.name) == (_NEED, "Need"):
                return self._need(node)
        elif isinstance(found, External):
            package, _, last = found.path.rpartition(".")
            if package == "builtins" and last in _MAKERS and not node.keywords:
                return _MAKERS[last](*self._each(node.args))
            if found.path == "typing.get_args" and len(node.args) == 1:
                return self._choices(node.args[0])
        raise Unknown(ast.unparse(node))

    def _need(self, node: ast.Call) -> str:
        given = dict(zip(("kind", "query", "layer"), self._each(node.args), strict=False))
        given |= {keyword.arg: self.value(keyword.value) for keyword in node.keywords if keyword.arg}
        details = [f"{name}={given[name]}" for name in ("query", "layer") if given.get(name) is not None]
        return f"{given['kind']}({', '.join(details)})" if details else str(given["kind"])

    def _choices(self, node: ast.expr) -> tuple[Any, ...]:
        """The values of a ``Literal`` that a name stands for."""
        found = self._resolved(dotted(node) or "")
        value = getattr(found.node, "value", None) if isinstance(found, Definition) else None
        if not isinstance(found, Definition) or not isinstance(value, ast.Subscript):
            raise Unknown(ast.unparse(node))
        inner = value.slice
        return tuple(_Evaluator(found.module, {})._each(inner.elts if isinstance(inner, ast.Tuple) else [inner]))
