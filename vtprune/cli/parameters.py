"""A component class in words, told by running it; `vtprune.cli.source.component` tells the same from its source."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vtprune.cli.source.words import BOUNDS, DECLARED, Parameter, bounded, default_text, value_text
from vtprune.core.component import Component, Reducer


def parameters_of(component: type[Component], meanings: Mapping[str, str]) -> list[Parameter]:
    """The parameters in order; a field's own description goes before that of ``meanings``."""
    return [
        Parameter(name, _type_with_bounds(field), _default(field), field.description or meanings.get(name, ""))
        for name, field in component.model_fields.items()
    ]


def facts(component: type[Component]) -> dict[str, str]:
    """What the component declares with default parameters: its needs, granularity, places and so on."""
    try:
        instance = component()
    except ValidationError:
        return {"needs": "depends on its parameters, some of which have no default", **_always(component)}
    found = {}
    if component.kind != "task":
        needs = value_text(instance.needs())
        found["needs"] = f"{needs} (with default parameters)" if component.model_fields else needs
    for name, label in DECLARED.get(component.kind, {}).items():
        found[label] = value_text(getattr(instance, name))
    return {**found, **_always(component)}


def _always(component: type[Component]) -> dict[str, str]:
    found = {"revision": str(component.revision)}
    if issubclass(component, Reducer):
        found["sites"] = value_text(component.sites)
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
    bounds = {
        name: value for item in field.metadata for name in BOUNDS if (value := getattr(item, name, None)) is not None
    }
    return bounded(type_text(field.annotation), bounds)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, Component):
        from vtprune.core.spec import dump

        value = dump(value)
    return default_text(value)
