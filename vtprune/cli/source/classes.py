"""Classes as their source states them: bases in order, docstrings, fields and members."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vtprune.cli.source.annotations import Placed, Stated, is_class_variable, stated_by, stated_in, type_text
from vtprune.cli.source.evaluate import Unknown, evaluate
from vtprune.cli.source.scope import Definition, External, Module, dotted, parsed, resolve
from vtprune.cli.source.words import Parameter, bounded, default_text
from vtprune.core.documentation import take_apart
from vtprune.core.sources import UnreadableError

_PLAIN = {"pydantic.BaseModel", "abc.ABC", "typing.Generic", "typing.Protocol", "builtins.object"}
"""Bases outside vtprune that add nothing worth showing."""
_ROOT = ("vtprune.core.component", "Component")


@dataclass(frozen=True)
class Class:
    """A class statement and the module it stands in."""

    module: Module
    node: ast.ClassDef

    @property
    def path(self) -> tuple[str, str]:
        """Module and name."""
        return self.module.name, self.node.name


@dataclass(frozen=True)
class Family:
    """A class and its bases in the order in which Python looks things up. unread: bases whose source is not read."""

    classes: tuple[Class, ...]
    unread: tuple[str, ...] = ()


def find_class(target: str) -> Class:
    """The class behind ``"module:attribute"``, through re-exports and aliases. Raises UnreadableError."""
    module, _, attribute = target.partition(":")
    found: Definition | External = resolve(parsed(module), attribute)
    for _ in range(20):
        if isinstance(found, External):
            raise UnreadableError(f"{target} is {found.path}, whose source is not read")
        if isinstance(found.node, ast.ClassDef):
            return Class(found.module, found.node)
        value = getattr(found.node, "value", None)
        name = None if value is None else dotted(value)
        if name is None:
            shown = ast.unparse(value) if isinstance(value, ast.AST) else f"made by {type(found.node).__name__}"
            raise UnreadableError(f"{attribute} is no class statement in {found.module.name}, but {shown}")
        found = resolve(found.module, name)
    raise UnreadableError(f"{target} is defined in a circle")


def family_of(start: Class) -> Family:
    """The class and its bases, linearised as Python does."""
    unread: list[str] = []
    order = _linear(start, unread, ())
    return Family(tuple(order), tuple(dict.fromkeys(unread)))


def _linear(one: Class, unread: list[str], above: tuple[Class, ...]) -> list[Class]:
    if one in above:
        raise UnreadableError(f"{one.node.name} is its own base")
    bases = [base for node in one.node.bases if (base := _base(node, one, unread)) is not None]
    return [one, *_merged([*(_linear(base, unread, (*above, one)) for base in bases), bases])]


def _base(node: ast.expr, of: Class, unread: list[str]) -> Class | None:
    name = dotted(node.value if isinstance(node, ast.Subscript) else node)
    if name is None:
        unread.append(ast.unparse(node))
        return None
    try:
        found = resolve(of.module, name)
        if isinstance(found, External):
            if found.path not in _PLAIN:
                unread.append(found.path)
            return None
        if isinstance(found.node, ast.ClassDef):
            return Class(found.module, found.node)
        return find_class(f"{of.module.name}:{name}")
    except UnreadableError:
        unread.append(name)
        return None


def _merged(lists: Sequence[list[Class]]) -> list[Class]:
    """C3; where Python would refuse the bases, simply the first that is left."""
    left = [list(one) for one in lists if one]
    found = []
    while left:
        heads = [one[0] for one in left]
        head = next((head for head in heads if not any(head in one[1:] for one in left)), heads[0])
        found.append(head)
        left = [rest for one in left if (rest := [item for item in one if item != head])]
    return found


def kind_of(family: Family) -> str | None:
    """The kind of a component class, or None for any other class."""
    if all(one.path != _ROOT for one in family.classes):
        return None
    member = find_member(family, "kind")
    value = getattr(member[0], "value", None) if member else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def find_member(family: Family, name: str) -> tuple[ast.stmt, Class] | None:
    """The statement that defines a method or an attribute, in the first class that does."""
    for one in family.classes:
        for statement in reversed(one.node.body):
            if name in _defines(statement):
                return statement, one
    return None


def _defines(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef):
        yield statement.name
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        yield statement.target.id
    elif isinstance(statement, ast.Assign):
        yield from (target.id for target in statement.targets if isinstance(target, ast.Name))


def fields_of(family: Family) -> dict[str, tuple[ast.AnnAssign, Module]]:
    """The fields of a pydantic model: those of bases first, each where it was stated last."""
    found: dict[str, tuple[ast.AnnAssign, Module]] = {}
    for one in reversed(family.classes):
        for statement in one.node.body:
            if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                continue
            name = statement.target.id
            if not name.startswith("_") and not is_class_variable(statement.annotation, one.module):
                found[name] = statement, one.module
    return found


def documentation(family: Family, fields: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The prose of the first docstring there is, and what each parameter means; see `take_apart`."""
    texts = [inspect.cleandoc(text) for one in family.classes if (text := ast.get_docstring(one.node, clean=False))]
    prose = take_apart(texts[0], fields)[0] if texts else ""
    meanings: dict[str, str] = {}
    for text in texts:
        meanings = take_apart(text, fields)[1] | meanings
    return prose, meanings


def stated_of(statement: ast.AnnAssign, module: Module) -> Stated:
    """Bounds, description and default of a field, from its annotation and what is assigned to it."""
    annotated = stated_by(statement.annotation, module)
    if statement.value is None:
        return annotated
    said = stated_in(statement.value, module)
    if said == Stated() and not _is_field(statement.value, module):
        said = Stated(default=(statement.value, module))
    return annotated.then(said)


def _is_field(node: ast.expr, module: Module) -> bool:
    name = dotted(node.func) if isinstance(node, ast.Call) else None
    if name is None:
        return isinstance(node, ast.Constant) and node.value is Ellipsis
    try:
        return resolve(module, name) in (External("pydantic.Field"), External("pydantic.fields.Field"))
    except UnreadableError:
        return False


def default_of(stated: Stated) -> tuple[str, object]:
    """A default in words, and its value; the value is `Unknown` where only running the source tells, or where there is
    none."""
    if stated.factory is not None:
        node, module = stated.factory
        made: Placed = (ast.Call(node, [], []), module)
    elif stated.default is not None:
        made = stated.default
    else:
        return "required", Unknown
    try:
        value = evaluate(*made)
    except Unknown:
        return f"default {ast.unparse(made[0])}", Unknown
    return default_text(value), value


def parameter(name: str, statement: ast.AnnAssign, module: Module, meaning: str) -> tuple[Parameter, object]:
    """A field in words, and the value of its default as `default_of` gives it."""
    stated = stated_of(statement, module)
    default, value = default_of(stated)
    text = bounded(type_text(statement.annotation, module), stated.bounds)
    return Parameter(name, text, default, stated.description or meaning), value
