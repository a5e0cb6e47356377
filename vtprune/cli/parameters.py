"""A component class in words: its parameters, what it needs and what it says of itself."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vtprune.core.component import Allocator, Component, Reducer, Scorer, Selector

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "length >=", "max_length": "length <="}


@dataclass(frozen=True)
class Parameter:
    """One parameter in words; ``default`` reads ``default 3`` or ``required``."""

    name: str
    type: str
    default: str
    meaning: str


def parameters_of(component: type[Component], meanings: Mapping[str, str]) -> list[Parameter]:
    """The parameters in order; a field's own description goes before that of ``meanings``."""
    return [
        Parameter(name, _type_with_bounds(field), _default(field), field.description or meanings.get(name, ""))
        for name, field in component.model_fields.items()
    ]


def documentation(component: type[Component]) -> tuple[str, dict[str, str]]:
    """A component's docstring, taken apart: the prose, and the meaning of each parameter.

    A parameter is documented by a line ``name: meaning`` (or ``one, two: meaning``) at the margin; indented lines below
    continue it, and the next one may follow on the same line after a full stop. Parameters from a base class may be
    documented there.
    """
    names = list(component.model_fields)
    prose, meanings = _take_apart(inspect.getdoc(component) or "", names)
    for base in component.__mro__[1:]:
        if issubclass(base, Component):
            meanings = _take_apart(inspect.cleandoc(base.__doc__ or ""), names)[1] | meanings
    return prose, meanings


def _take_apart(text: str, fields: Sequence[str]) -> tuple[str, dict[str, str]]:
    prose: list[str] = []
    meanings: dict[str, str] = {}
    current: list[str] = []
    inside = re.compile(rf"(?<=\.) (?=(?:{'|'.join(map(re.escape, fields))}): )") if fields else None
    for line in text.splitlines():
        if current and line.startswith(" "):
            meanings.update({name: f"{meanings[name]} {line.strip()}" for name in current})
            continue
        current = _documented(line, fields)
        if not current:
            prose.append(line)
            continue
        for part in inside.split(line) if inside else []:
            current = _documented(part, fields)
            meanings.update(dict.fromkeys(current, part.partition(": ")[2].strip()))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(prose)).strip(), meanings


def _documented(line: str, fields: Sequence[str]) -> list[str]:
    """The parameters that a line of a docstring begins to document, if any."""
    head, colon, _ = line.partition(": ")
    names = [name.strip() for name in head.split(",")]
    return names if colon and all(name in fields for name in names) else []


def facts(component: type[Component]) -> dict[str, str]:
    """What the component declares with default parameters: its needs, granularity, places and so on."""
    try:
        instance = component()
    except ValidationError:
        return {"needs": "depends on its parameters, some of which have no default", **_always(component)}
    needs = ", ".join(sorted(map(str, instance.needs()))) or "nothing"
    found = {"needs": f"{needs} (with default parameters)" if component.model_fields else needs}
    if isinstance(instance, Scorer):
        found["granularity"] = instance.granularity
    elif isinstance(instance, Allocator):
        found["count known from shapes alone"] = _yes(instance.count_is_static)
    elif isinstance(instance, Selector):
        found["uses scores"] = _yes(instance.uses_scores)
        found["reads features from"] = instance.feature_source or "nothing"
        found["keeps exactly the allocated count"] = _yes(instance.count_is_exact)
    return {**found, **_always(component)}


def _always(component: type[Component]) -> dict[str, str]:
    found = {"revision": str(component.revision)}
    if issubclass(component, Reducer):
        found["sites"] = ", ".join(sorted(component.sites))
    return found


def type_text(annotation: Any) -> str:
    """An annotation for people: ``'last' | 'text'``, ``list of int``, ``scorer``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0])
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin in (Union, UnionType):
        return " | ".join(map(type_text, arguments))
    if origin is not None:
        inner = ", ".join(type_text(argument) for argument in arguments if argument is not Ellipsis)
        return f"{getattr(origin, '__name__', origin)} of {inner}"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return annotation.kind
    return getattr(annotation, "__name__", str(annotation))


def _type_with_bounds(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(item, name)}"
        for item in field.metadata
        for name, sign in _BOUNDS.items()
        if getattr(item, name, None) is not None
    ]
    return ", ".join([type_text(field.annotation), *bounds])


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, Component):
        from vtprune.core.spec import dump

        value = dump(value)
    return f"default {json.dumps(value, default=str)}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
