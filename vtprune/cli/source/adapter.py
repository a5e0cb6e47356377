"""An adapter as its source states it: the call that makes it, and what the helper behind that call fills in."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vtprune.cli.source.classes import Class, family_of, fields_of, find_class
from vtprune.cli.source.evaluate import Unknown, evaluate
from vtprune.cli.source.scope import Definition, External, Module, dotted, parsed, resolve
from vtprune.core.sources import UnreadableError

ADAPTER = "vtprune.core.adapter:Adapter"
DEPTH = 4
"""How many helpers inside one another are followed."""
_PARTIAL, _REPLACE = External("functools.partial"), External("dataclasses.replace")


@dataclass(frozen=True)
class Stated:
    """An argument's expression and the module that it stands in."""

    node: ast.expr
    module: Module

    @property
    def value(self) -> Any:
        """Its value; raises Unknown."""
        return evaluate(self.node, self.module)

    @property
    def text(self) -> str | None:
        """The expression as it is written; None for ``None``."""
        return None if isinstance(self.node, ast.Constant) and self.node.value is None else ast.unparse(self.node)


@dataclass(frozen=True)
class AdapterSource:
    """documentation: the module's docstring. fields: those of `Adapter` that the source states, defaults included.
    maker: the helper that makes it, if it is not `Adapter` itself; complete: whether all that it fills in is known."""

    documentation: str
    fields: Mapping[str, Stated]
    maker: str = ""
    complete: bool = True

    def get(self, name: str, otherwise: Any = None) -> Any:
        """The value of a field; ``otherwise`` where it is not stated, or not in a way that can be read."""
        try:
            return self.fields[name].value if name in self.fields else otherwise
        except Unknown:
            return otherwise


def read_adapter(target: str) -> AdapterSource:
    """What the source of an adapter says. target: ``"module:attribute"``.

    Raises UnreadableError if there is no source, or the attribute is not assigned a call.
    """
    place, _, attribute = target.partition(":")
    found = resolve(parsed(place), attribute)
    if isinstance(found, External):
        raise UnreadableError(f"{target} is {found.path}, whose source is not read")
    adapter = find_class(ADAPTER)
    reader = _Reader(adapter)
    fields = reader.made(found)
    if fields is None:
        value = getattr(found.node, "value", None)
        shown = ast.unparse(value) if isinstance(value, ast.AST) else f"made by {type(found.node).__name__}"
        raise UnreadableError(f"{attribute} in {found.module.name} is no call of Adapter or of a helper, but {shown}")
    if reader.complete:
        defaults = fields_of(family_of(adapter)).items()
        rest = {name: Stated(line.value, module) for name, (line, module) in defaults if line.value is not None}
        fields = {**rest, **fields}
    return AdapterSource(ast.get_docstring(found.module.tree) or "", fields, reader.maker, reader.complete)


@dataclass(frozen=True)
class _Scope:
    """Inside a helper. names: what its parameters and local names stand for; extra: what its parameter ``**rest``
    holds."""

    names: Mapping[str, Stated] = field(default_factory=dict)
    rest: str | None = None
    extra: Mapping[str, Stated] = field(default_factory=dict)


class _Reader:
    """Follows the call that makes an adapter through helpers; notes the outermost one, and whether all was told."""

    def __init__(self, adapter: Class) -> None:
        self.adapter, self.maker, self.complete = adapter, "", True

    def made(self, found: Definition | External | None, depth: int = 0) -> dict[str, Stated] | None:
        """The arguments behind an assignment of such a call, or of a name that stands for one; None for others."""
        value = getattr(found.node, "value", None) if isinstance(found, Definition) and depth < DEPTH else None
        if not isinstance(found, Definition) or not isinstance(value, ast.expr):
            return None
        if isinstance(value, ast.Call):
            return self.arguments(value, found.module, _Scope(), depth)
        return self.made(_named(value, found.module), depth + 1)

    def arguments(self, call: ast.Call, module: Module, scope: _Scope, depth: int = 0) -> dict[str, Stated]:
        """The keyword arguments that reach `Adapter`."""
        own = dict(self._keywords(call.keywords, module, scope))
        found = _named(call.func, module)
        if found == _REPLACE and call.args:
            base = self.made(_named(call.args[0], module), depth + 1)
            if base is not None:
                return base | own
        node = found.node if isinstance(found, Definition) and depth < DEPTH else None
        if isinstance(found, Definition) and isinstance(node, ast.ClassDef):
            if Class(found.module, node) != self.adapter or call.args:
                self._give_up(node.name)
            return own
        if isinstance(found, Definition) and isinstance(node, ast.FunctionDef):
            self.maker = self.maker or f"{node.name} ({found.module.name})"
            placed = [self._substituted(argument, module, scope) for argument in call.args]
            return self._through(node, found.module, placed, own, depth)
        made = getattr(node, "value", None)
        if isinstance(found, Definition) and isinstance(made, ast.Call) and made.args:
            self.maker = self.maker or f"{ast.unparse(call.func)} ({found.module.name})"
            if _named(made.func, found.module) == _PARTIAL:
                bound = ast.Call(made.args[0], made.args[1:], made.keywords)
                return self.arguments(bound, found.module, _Scope(), depth + 1) | own
        self._give_up(ast.unparse(call.func))
        return own

    def _give_up(self, maker: str) -> None:
        self.maker, self.complete = self.maker or maker, False

    def _through(
        self, function: ast.FunctionDef, module: Module, placed: list[Stated], own: dict[str, Stated], depth: int
    ) -> dict[str, Stated]:
        """What a helper passes on: the call in its last ``return``, with its parameters filled in."""
        spec = function.args
        positional = [argument.arg for argument in (*spec.posonlyargs, *spec.args)]
        defaults = [
            *zip(reversed(positional), reversed(spec.defaults), strict=False),
            *zip((argument.arg for argument in spec.kwonlyargs), spec.kw_defaults, strict=True),
        ]
        names = {name: Stated(node, module) for name, node in defaults if node is not None}
        names |= dict(zip(positional, placed, strict=False))
        taken = {*positional, *(argument.arg for argument in spec.kwonlyargs)}
        names |= {name: value for name, value in own.items() if name in taken}
        extra = {name: value for name, value in own.items() if name not in taken}
        for statement in function.body:
            if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                value = Stated(statement.value, module)
                names |= {target.id: value for target in targets if isinstance(target, ast.Name)}
        last = function.body[-1]
        if not isinstance(last, ast.Return) or not isinstance(last.value, ast.Call):
            self.complete = False
            return extra
        scope = _Scope(names, spec.kwarg.arg if spec.kwarg else None, extra)
        return self.arguments(last.value, module, scope, depth + 1)

    def _keywords(self, keywords: list[ast.keyword], module: Module, scope: _Scope) -> Iterator[tuple[str, Stated]]:
        for keyword in keywords:
            if keyword.arg is None:
                yield from self._unpacked(keyword.value, module, scope)
            else:
                yield keyword.arg, self._substituted(keyword.value, module, scope)

    def _unpacked(self, node: ast.expr, module: Module, scope: _Scope) -> Iterator[tuple[str, Stated]]:
        """The entries of a dict that is passed on with two stars."""
        if isinstance(node, ast.Name) and node.id == scope.rest:
            yield from scope.extra.items()
        elif isinstance(node, ast.Name) and node.id in scope.names:
            yield from self._unpacked(scope.names[node.id].node, module, scope)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if key is None:
                    yield from self._unpacked(value, module, scope)
                elif isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value, self._substituted(value, module, scope)
                else:
                    self.complete = False
        else:
            self.complete = False

    def _substituted(self, node: ast.expr, module: Module, scope: _Scope) -> Stated:
        return scope.names[node.id] if isinstance(node, ast.Name) and node.id in scope.names else Stated(node, module)


def _named(node: ast.expr, module: Module) -> Definition | External | None:
    name = dotted(node)
    try:
        return None if name is None else resolve(module, name)
    except UnreadableError:
        return None
