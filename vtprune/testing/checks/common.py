"""What holds of every component, whatever its kind: that it is documented, frozen, and plain data with a name."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from pydantic import ValidationError

from vtprune.core.component import Component
from vtprune.core.documentation import documentation
from vtprune.core.errors import UnknownNameError
from vtprune.core.plugins import registry
from vtprune.core.signals import KINDS as SIGNALS
from vtprune.core.signals import QUERIES, Need
from vtprune.core.spec import BASES, build, dump, plain
from vtprune.testing.alternatives import differing_in, examples_of, rebuilt, values_of
from vtprune.testing.checking import check, fail

EVERY = tuple(BASES)
NO_PARAMETER = "surely_no_parameter"
ROWS = {
    "attention": QUERIES,
    "text": ("last", "text_after_vision", "text"),
    "vision_attention": ("cls", "received"),
}
"""Signals that are read at chosen rows, and which rows there are."""
LOSSY = (
    "a serialiser that writes less than was read; a field of components must be a ScorerSpec, SelectorSpec, ... so "
    "that the parameters of what it holds are written"
)


def registered_name(component: Component) -> str | None:
    """The name of a component's class, or None if it is not registered."""
    try:
        return registry().name_of(component.kind, type(component))
    except UnknownNameError:
        return None


def not_registered(component: Component) -> str | None:
    """Why a check of registered classes does not concern a component."""
    if registered_name(component) is None:
        return f"{type(component).__name__} is not registered, so no recipe can name it"
    return None


def as_data(component: Component) -> dict[str, Any]:
    """A component as JSON-ready data: with its name if it has one, as a recipe holds it."""
    return dump(component) if registered_name(component) is not None else plain(component)


def from_data(component: type[Component], data: dict[str, Any]) -> Component:
    """The inverse of `as_data`."""
    return build(component.kind, data) if "name" in data.keys() - component.model_fields else component(**data)


@check(*EVERY)
def check_kind_is_that_of_its_base(component: Component) -> None:
    """A component is of the kind of its base class."""
    base = BASES[component.kind]
    if not isinstance(component, base):
        own = [kind for kind, other in BASES.items() if isinstance(component, other)]
        fail(
            f"{type(component).__name__} says that it is a {component.kind}, but its base class is that of a "
            f"{' and a '.join(own) or 'component'}",
            f"`kind` was overridden; leave it out, {base.__name__} sets it",
        )
    if component.kind != type(component).kind:
        fail(f"kind is {component.kind!r} of the instance but {type(component).kind!r} of the class")


@check(*EVERY)
def check_revision_is_a_positive_integer(component: Component) -> None:
    """The revision is an integer of at least 1, by which results tell versions of a component apart."""
    revision: Any = component.revision
    if not isinstance(revision, int) or isinstance(revision, bool) or revision < 1:
        fail(
            f"revision is {revision!r}, expected an integer of at least 1",
            "a version text in its place; start with `revision: ClassVar[int] = 1`, raise it when the numbers change",
        )
    if "revision" in type(component).model_fields:
        fail("revision is a parameter, so a recipe could set it", "it lacks `ClassVar`")


@check(*EVERY)
def check_class_is_documented(component: Component) -> None:
    """The class has a docstring of its own, which `vtprune describe` shows."""
    if not (type(component).__dict__.get("__doc__") or "").strip():
        fail(f"{type(component).__name__} has no docstring of its own; say in one line what it computes")


@check(*EVERY)
def check_parameters_are_documented(component: Component) -> None:
    """Every parameter is explained, by a line `name: meaning` of the docstring or a field's description."""
    _, meanings = documentation(type(component))
    names = [
        name for name, field in type(component).model_fields.items() if not (field.description or meanings.get(name))
    ]
    if names:
        fail(
            f"{type(component).__name__} does not explain {', '.join(names)}",
            f"the docstring lacks a line at its margin such as `{names[0]}: what it does, and its unit`",
        )


@check(*EVERY)
def check_component_is_frozen(component: Component) -> None:
    """Nothing can be set on a component: it is shared between runs, and recipes are identified by their content."""
    for name in (*type(component).model_fields, NO_PARAMETER):
        twin = component.model_copy()
        try:
            setattr(twin, name, getattr(component, name, 1))
        except (ValidationError, AttributeError, TypeError, ValueError):
            continue
        fail(
            f"`component.{name} = ...` was accepted",
            "`model_config` was overridden without frozen=True, or `__setattr__` was",
        )


@check(*EVERY)
def check_unknown_parameters_are_refused(component: Component) -> None:
    """A parameter that does not exist is refused, in a recipe with the nearest name."""
    try:
        type(component)(**{**values_of(component), NO_PARAMETER: 1})
    except ValidationError:
        pass
    else:
        fail(
            f"{type(component).__name__}({NO_PARAMETER}=1) was accepted, so a misspelt parameter would be ignored",
            "`model_config` was overridden without extra='forbid'",
        )
    fields = list(type(component).model_fields)
    if registered_name(component) is None or not fields:
        return
    misspelt = f"{fields[0]}_"
    try:
        build(component.kind, {**dump(component), misspelt: 1})
    except ValueError as error:
        if repr(fields[0]) not in str(error):
            fail(f"the error about the parameter {misspelt!r} does not name {fields[0]!r}: {error}")


@check(*EVERY)
def check_defaults_are_valid(component: Component) -> None:
    """The values of a component, its defaults among them, are of the declared types and within the declared bounds."""
    try:
        again = type(component)(**values_of(component))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "the whole"
        fail(
            f"its own value of {where} is refused: {fault['msg']} (got {fault['input']!r})",
            "a default outside the declared bounds or type: pydantic does not validate defaults",
        )
    for name in type(component).model_fields:
        own, read = getattr(component, name), getattr(again, name)
        if type(own) is not type(read):
            fail(
                f"{name} is {own!r}, which is read as {read!r} when given",
                "a default that is not of the declared type, such as a list for a tuple or 1 for a float",
            )


@check(*EVERY)
def check_equal_parameters_make_equal_components(component: Component) -> None:
    """Components are equal, and hash alike, if and only if their parameters are equal."""
    twin = rebuilt(component, {})
    if twin != component:
        fail(
            "a component built from the same parameters is not equal",
            "`__eq__` was overridden, or private state differs between instances",
        )
    try:
        hashes = hash(component), hash(twin)
    except TypeError as error:
        fail(f"it cannot be hashed: {error}", "a list, dict or set among the parameters; use a tuple or a frozenset")
    else:
        if hashes[0] != hashes[1]:
            fail("equal components hash differently", "`__hash__` was overridden, or uses the identity of an object")
    for name in type(component).model_fields:
        for other in differing_in(component, name, examples_of(component)):
            if other == component:
                fail(f"components that differ in {name} are equal", "`__eq__` was overridden and leaves it out")


@check(*EVERY)
def check_copies_are_equal(component: Component) -> None:
    """Copies, shallow, deep and pydantic's own, are equal to the original."""
    copies = {
        "copy.copy": copy.copy,
        "copy.deepcopy": copy.deepcopy,
        "model_copy": lambda original: original.model_copy(deep=True),
    }
    for name, make in copies.items():
        if make(component) != component:
            fail(f"{name}(component) is not equal to it", "state that is no parameter; keep none")


@check(*EVERY)
def check_round_trip_keeps_parameters(component: Component) -> None:
    """Written to JSON and to YAML and read again, a component is the same, with those inside it."""
    variants: list[Component] = [component]
    for name in type(component).model_fields:
        variants += list(differing_in(component, name, examples_of(component)))
    for variant in variants:
        data = as_data(variant)
        for language, text, read in (
            ("JSON", json.dumps(data), json.loads),
            ("YAML", yaml.safe_dump(data, sort_keys=False), yaml.safe_load),
        ):
            try:
                back = from_data(type(component), read(text))
            except Exception as error:
                fail(f"what it was written as in {language} cannot be read: {type(error).__name__}: {error}", LOSSY)
            lost = [name for name, value in values_of(variant).items() if getattr(back, name) != value]
            if type(back) is not type(variant) or lost or as_data(back) != data:
                what = ", ".join(
                    f"{name}: {getattr(variant, name)!r} came back as {getattr(back, name)!r}" for name in lost
                )
                fail(
                    f"through {language}, {what or f'{variant!r} came back as {back!r}'}",
                    LOSSY,
                )


@check(*EVERY)
def check_needs_exist(component: Component) -> None:
    """What a component needs is a frozenset of `Need`s that exist."""
    needs = component.needs()
    if not isinstance(needs, frozenset) or not all(isinstance(need, Need) for need in needs):
        fail(
            f"needs() returned {type(needs).__name__} {needs!r}, expected a frozenset of Need",
            "a set, a list, or names in place of `Need(...)`",
        )
    for need in sorted(needs, key=str):
        if need.kind not in SIGNALS:
            fail(f"it needs {need}, but there is no signal {need.kind!r}; there are {', '.join(SIGNALS)}")
        rows = ROWS.get(need.kind)
        if rows is None and need.query is not None:
            fail(f"it needs {need}, but {need.kind} is not read at chosen rows", "a `query` where there is none")
        if rows is not None and need.query not in rows:
            fail(f"it needs {need}, but {need.kind} is read at {', '.join(rows)}")
        if need.kind == "vision_attention" and need.layer is None:
            fail(f"it needs {need} without saying of which vision layer", "Need('vision_attention', ..., layer=-2)")


@check(*EVERY)
def check_examples_are_repeatable(component: Component) -> None:
    """`examples()` returns the same distinct instances at every call, so that what was checked can be named."""
    first, again = type(component).examples(), type(component).examples()
    if not isinstance(first, tuple) or not all(isinstance(example, type(component)) for example in first) or not first:
        fail(f"examples() returned {first!r}, expected a tuple of one or more {type(component).__name__}")
    if first != again:
        fail(f"examples() returned {first!r}, then {again!r}", "random parameters; write them down")
    for position, example in enumerate(first):
        if example in first[:position]:
            fail(f"examples() holds {example!r} twice, which is checked twice for nothing")


@check(*EVERY)
def check_name_leads_to_the_class(component: Component) -> None:
    """Every registration of the class is of its kind, and loads this class."""
    path = f"{type(component).__module__}:{type(component).__qualname__}"
    for entry in registry().entries():
        if entry.target != path:
            continue
        if entry.kind != component.kind:
            fail(
                f"{path} is registered as {entry.kind} {entry.name!r}, but is a {component.kind}",
                "a wrong kind in `registrar.add`",
            )
        if registry().load(entry.kind, entry.name) is not type(component):
            fail(
                f"{entry.kind} {entry.name!r} loads another class of the same name than the one at hand",
                "the module was imported twice, under two names or after a change",
            )
        if not entry.summary.strip() or "\n" in entry.summary:
            fail(f"{entry.kind} {entry.name!r} is registered with the summary {entry.summary!r}, expected one line")
