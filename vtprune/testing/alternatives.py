"""Components that differ from a given one in a single parameter: from the class's examples, or made from the types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from vtprune.core.component import Component
from vtprune.core.spec import build

INSIDE: dict[str, tuple[Any, ...]] = {
    "scorer": ({"name": "random", "seed": 5}, {"name": "uniform_grid"}, {"name": "key_norm", "p": 3.0}),
    "allocator": ({"name": "reattention", "rate": 0.6}, {"name": "uniform"}),
    "selector": ({"name": "threshold", "value": 0.1, "minimum": 2}, {"name": "top_k"}, {"name": "max_min"}),
    "reducer": ({"name": "merge", "weighting": "size"}, {"name": "drop"}, {"name": "evict_kv"}),
}
"""Built-ins that stand for other components inside a component; the first one has a parameter that is no default."""


def examples_of(component: Component) -> tuple[Component, ...]:
    """The instance at hand, then the examples of its class (none where it cannot make any)."""
    try:
        more = tuple(type(component).examples())
    except Exception:
        more = ()
    return (component, *(other for other in more if other != component))


def values_of(component: Component) -> dict[str, Any]:
    """The parameters of a component by name, as they are."""
    return {name: getattr(component, name) for name in type(component).model_fields}


def differing_in(base: Component, name: str, peers: Sequence[Component] = ()) -> Iterator[Component]:
    """Components like ``base`` with another value of one parameter: values of ``peers`` first, then made-up ones.

    Values that the class refuses in company of the others are left out.
    """
    field, own = type(base).model_fields[name], getattr(base, name)
    tried: list[Any] = []
    given = [getattr(peer, name) for peer in peers]
    for value in (*given, *_values(field.annotation, own, field.metadata)):
        if any(_equal(value, old) for old in (own, *tried)):
            continue
        tried.append(value)
        made = rebuilt(base, {name: value})
        if made is not None and not _equal(getattr(made, name), own):
            yield made


def rebuilt(base: Component, changes: dict[str, Any]) -> Component | None:
    """A component of the same class with some parameters changed, or None if it refuses them."""
    try:
        return type(base)(**{**values_of(base), **changes})
    except ValidationError:
        return None


def bounds_of(field: FieldInfo) -> dict[str, float]:
    """The bounds of a number (``ge``, ``gt``, ``le``, ``lt``), also of one that may be left out."""
    found: dict[str, float] = {}
    for item in (*field.metadata, *_metadata(field.annotation)):
        for sign in ("ge", "gt", "le", "lt"):
            if getattr(item, sign, None) is not None:
                found[sign] = getattr(item, sign)
    return found


def is_number(annotation: Any) -> type | None:
    """``int`` or ``float`` if that is what a parameter is, perhaps annotated or optional; else None."""
    if get_origin(annotation) is Annotated:
        return is_number(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return is_number(parts[0]) if len(parts) == 1 else None
    return annotation if annotation in (int, float) else None


def _metadata(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        inner, *items = get_args(annotation)
        unfolded = [part for item in items for part in getattr(item, "metadata", None) or [item]]
        return (*_metadata(inner), *unfolded)
    if get_origin(annotation) in (Union, UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return _metadata(parts[0]) if len(parts) == 1 else ()
    return ()


def _values(annotation: Any, own: Any, metadata: Sequence[Any] = ()) -> Iterator[Any]:
    """Values of a type, the likely ones first; some may be refused."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _values(arguments[0], own, (*arguments[1:], *metadata))
    elif origin in (Union, UnionType):
        for part in sorted(arguments, key=lambda part: part is type(None)):
            yield from _values(part, own, metadata)
    elif origin is Literal:
        yield from arguments
    elif annotation is type(None):
        yield None
    elif annotation is bool:
        yield from (True, False)
    elif annotation in (int, float):
        yield from _numbers(annotation, own, metadata)
    elif origin in (tuple, list, frozenset, set):
        yield from _collections(origin, arguments, own)
    elif origin is dict or annotation is dict:
        yield from _mappings(arguments, own)
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        yield from annotation
    elif isinstance(annotation, type) and issubclass(annotation, Component):
        yield from (build(annotation.kind, spec) for spec in INSIDE.get(annotation.kind, ()))
    elif isinstance(own, BaseModel):
        for name, field in type(own).model_fields.items():
            for value in _values(field.annotation, getattr(own, name), field.metadata):
                try:
                    yield type(own)(**{**{n: getattr(own, n) for n in type(own).model_fields}, name: value})
                except ValidationError:
                    continue


def _numbers(kind: type, own: Any, metadata: Sequence[Any]) -> Iterator[Any]:
    ends = [getattr(item, sign) for item in metadata for sign in ("ge", "le") if getattr(item, sign, None) is not None]
    near: list[float] = []
    if isinstance(own, int | float) and not isinstance(own, bool):
        near = [own + 1, own - 1, own * 2, own / 2, own + 0.25, own - 0.25, -own]
    for value in (*near, 1, 0, 2, 3, 0.5, 0.25, 0.75, 0.1, 0.9, -1, 5, 10, 50, *ends):
        if kind is float or float(value).is_integer():
            yield kind(value)


def _collections(origin: Any, arguments: tuple[Any, ...], own: Any) -> Iterator[Any]:
    items = list(own) if isinstance(own, tuple | list | frozenset | set) else []
    inner = [argument for argument in arguments if argument is not Ellipsis]
    if items:
        yield from (origin(items[:-1]), origin(reversed(items)), origin([*items, items[-1]]))
    for position, item in enumerate(items):
        kind = inner[min(position, len(inner) - 1)] if inner else type(item)
        for value in _values(kind, item):
            yield origin([*items[:position], value, *items[position + 1 :]])
    for kind in inner[:1]:
        made = list(_values(kind, None))
        yield from (origin([value]) for value in made)
        yield from (origin([*items, value]) for value in made)


def _mappings(arguments: tuple[Any, ...], own: Any) -> Iterator[Any]:
    entries = dict(own) if isinstance(own, dict) else {}
    for key, held in entries.items():
        for value in _values(arguments[1], held) if arguments else ():
            yield {**entries, key: value}
    for key in entries:
        yield {other: held for other, held in entries.items() if other != key}
    if arguments and not entries:
        for key, value in zip(_values(arguments[0], None), _values(arguments[1], None), strict=False):
            yield {key: value}


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)
