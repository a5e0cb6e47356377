"""Components as data: ``{"name": "attention", "query": "last"}`` to an object and back, without losing a parameter.

`ScorerSpec` and its siblings are field types. They accept a name, a dict or an instance, look the name up in the
registry, and write the concrete class's parameters (a field typed as the base class alone would drop them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, PlainSerializer, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError

from vtprune.core.component import (
    COMPONENT_KINDS,
    Allocator,
    Component,
    Reducer,
    Scorer,
    Selector,
)
from vtprune.core.errors import UnknownNameError, VtpruneError, did_you_mean
from vtprune.core.plugins import registry
from vtprune.core.substitution import substituted
from vtprune.core.task import Task


def faults(error: ValidationError) -> list[ErrorDetails]:
    """Pydantic's faults, without those that only follow from others: a sequence is "too short" if its items failed."""
    found = error.errors()
    inside = {fault["loc"][:depth] for fault in found for depth in range(len(fault["loc"]))}
    return [fault for fault in found if fault["type"] != "too_short" or fault["loc"] not in inside]


def sentences(error: ValidationError, owner: str, fields: list[str]) -> list[str]:
    """One sentence for each fault pydantic found in the parameters of ``owner``."""
    found = []
    for fault in faults(error):
        where = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            found.append(f"unknown parameter {where!r} of {owner}.{did_you_mean(where, fields)}")
        elif fault["type"] == "missing":
            found.append(f"{owner} needs the parameter {where!r}")
        else:
            for line in _said(fault).removeprefix("Value error, ").split("\n"):
                seen = f" (got {fault['input']!r})" if fault["type"] != "value_error" else ""
                found.append(f"{owner}{'.' + where if where else ''}: {line}{seen}")
    return found


def _said(fault: ErrorDetails) -> str:
    """Pydantic's message, in the words of a file where it has a type of Python."""
    if fault["type"] not in ("tuple_type", "list_type"):
        return fault["msg"]
    try:
        example = yaml.safe_dump([fault["input"]], default_flow_style=True, width=math.inf, sort_keys=False).strip()
    except yaml.YAMLError:
        example = f"[{fault['input']!r}]"
    return f"expected a list, e.g. {example}"


def located(
    error: ValidationError, whole: str, owner: Callable[[Sequence[int | str]], type[BaseModel]]
) -> Iterator[tuple[str, str]]:
    """Pydantic's faults in data read from a file: for each a place (``stages[0].budget``, "" for the data as a whole)
    and what is wrong there.

    whole: what holds a field that is unknown at the top. owner: the model in which a field was unknown, by its place.
    """
    for fault in faults(error):
        *parents, last = fault["loc"] or ("",)
        inside = [part for part in parents if not _is_inner(part)]
        if fault["type"] == "extra_forbidden":
            yield (
                _place(inside) or whole,
                f"unknown field {last!r}.{did_you_mean(str(last), owner(inside).model_fields)}",
            )
            continue
        where = _place([part for part in fault["loc"] if not _is_inner(part)])
        if fault["type"] == "missing":
            yield where, "missing"
        elif fault["type"] == "value_error":
            yield from ((where, line) for line in str(fault["ctx"]["error"]).split("\n"))
        else:
            yield where, f"{_said(fault)} (got {fault['input']!r})"


def _is_inner(part: int | str) -> bool:
    """Whether a part of a place stands for a validator or a choice of a union, which no file has."""
    return str(part).startswith(("function-", "tuple[", "literal["))


def _place(parts: Sequence[int | str]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def build(kind: str, spec: Any) -> Component:
    """Make a component from a name, a dict with ``name`` and parameters, or an instance.

    Raises ValueError; its message holds one problem a line.
    """
    base = BASES[kind]
    if isinstance(spec, base):
        return spec
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        hint = f"; write {spec.__name__}() for an instance" if isinstance(spec, type) and issubclass(spec, base) else ""
        raise ValueError(f"a {kind} is a name or a mapping with 'name' and parameters, got {spec!r}{hint}")
    name = substituted(kind, spec["name"])
    try:
        target = registry().load(kind, name)
    except VtpruneError as error:
        raise ValueError(str(error)) from error
    if not (isinstance(target, type) and issubclass(target, base)):
        raise ValueError(f"{kind} {name!r} is registered as {target!r}, which is not a subclass of {base.__name__}")
    try:
        return target(**{key: value for key, value in spec.items() if key != "name"})
    except ValidationError as error:
        raise ValueError("\n".join(sentences(error, f"{kind} {name!r}", list(target.model_fields)))) from error


def dump(component: Component) -> dict[str, Any]:
    """The inverse of `build`: name and every parameter, defaults included.

    Raises UnknownNameError if its class, or that of a component inside, is not registered.
    """
    return {"name": _name(component), **plain(component)}


def _name(component: Component) -> str:
    try:
        return registry().name_of(component.kind, type(component))
    except UnknownNameError:
        if not _as_it_is.get():
            raise
        return f"{type(component).__module__}:{type(component).__qualname__}"


def described(model: BaseModel) -> dict[str, Any]:
    """As `plain`, but a component that nothing has registered stands by its class, ``module:class``: for reports on
    what happened, which nothing is built from."""
    token = _as_it_is.set(True)
    try:
        return plain(model)
    finally:
        _as_it_is.reset(token)


def plain(model: BaseModel) -> dict[str, Any]:
    """JSON-ready data; what a component inside raises arrives as it is, without pydantic's wrapping."""
    try:
        return model.model_dump(mode="json")
    except PydanticSerializationError as error:
        raise (error.__cause__ or error) from None


_as_it_is: ContextVar[bool] = ContextVar("as_it_is", default=False)
BASES: Mapping[str, type[Component]] = {**COMPONENT_KINDS, "task": Task}
"""The base class of each kind of component, those of a stage and tasks."""
ScorerSpec = Annotated[Scorer, BeforeValidator(lambda spec: build("scorer", spec)), PlainSerializer(dump)]
AllocatorSpec = Annotated[Allocator, BeforeValidator(lambda spec: build("allocator", spec)), PlainSerializer(dump)]
SelectorSpec = Annotated[Selector, BeforeValidator(lambda spec: build("selector", spec)), PlainSerializer(dump)]
ReducerSpec = Annotated[Reducer, BeforeValidator(lambda spec: build("reducer", spec)), PlainSerializer(dump)]
TaskSpec = Annotated[Task, BeforeValidator(lambda spec: build("task", spec)), PlainSerializer(dump)]
