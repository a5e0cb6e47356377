"""Write tests/public_api.txt: every public name, with its signature, parameters or columns, a line each.

    python tools/public_api.py           write the file
    python tools/public_api.py --check   exit with status 1 if the file is out of date

A change to what others rely on is then a visible change of a file; docs/stability.md says what may change when.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ForwardRef, get_args, get_origin, get_type_hints

import torch
import typer
from pydantic import BaseModel
from typer.models import ArgumentInfo, OptionInfo

from vtprune import Recipe, Report
from vtprune.core.layout import SampleLayout, Segment
from vtprune.core.provenance import of_parts
from vtprune.core.registry import Registration
from vtprune.core.report import Event
from vtprune.study.cell import ModelRef
from vtprune.study.file import StudyFile
from vtprune.study.rows import SampleRow, TimeRow

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "public_api.txt"
MODULES = (
    "vtprune",
    "vtprune.errors",
    "vtprune.plugin",
    "vtprune.testing",
    "vtprune.testing.models",
    "vtprune.testing.strategies",
    "vtprune.testbed",
)
VARIABLE = re.compile(r"[\"'`](VTPRUNE_[A-Z_]+)\b")
STRATEGY = re.compile(r"(hypothesis[\w.]*|st)\.SearchStrategy")
FORWARD = re.compile(r"ForwardRef\('([^']*)'[^)]*\)")
"""hypothesis works out return types when it is imported, and names itself as it likes."""
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def text() -> str:
    """The whole file."""
    lines = ["# Written by tools/public_api.py; docs/stability.md says what may change when.", ""]
    for name in MODULES:
        lines += [f"[module {name}]", *module(name), ""]
    lines += ["[study file]", *fields_below(StudyFile), ""]
    for title, table in {"samples": SampleRow, "times": TimeRow, "model of a cell": ModelRef}.items():
        lines += [f"[results: {title}]", *(f"{n}: {written(a)}" for n, a in table.__annotations__.items()), ""]
    lines += ["[report as JSON]", *keys(report().to_dict()), ""]
    lines += ["[list --json]", *(f"{field.name}: {field.type}" for field in dataclasses.fields(Registration)), ""]
    lines += ["[plugins]", *plugin_contract(), "", "[commands]", *commands(), ""]
    lines += ["[environment]", *sorted(variables())]
    return "\n".join(lines) + "\n"


def module(name: str) -> Iterator[str]:
    """The names of a module's ``__all__``."""
    found = importlib.import_module(name)
    for public in sorted(found.__all__):
        yield from described(public, getattr(found, public))


def described(name: str, thing: Any) -> Iterator[str]:
    """One line for a name, and one for each public member of a class."""
    if inspect.isclass(thing) and issubclass(thing, BaseException):
        yield f"{name}: error, a {' < '.join(base.__name__ for base in thing.__mro__[1:-2])}"
    elif inspect.isclass(thing):
        order = f"({', '.join(f.name for f in dataclasses.fields(thing))})" if dataclasses.is_dataclass(thing) else ""
        yield f"{name}: class{order}"
        for member, text in sorted(members(thing).items()):
            yield f"  {name}.{member}{text}"
    elif inspect.isfunction(thing) or hasattr(thing, "cache_info"):
        yield f"{name}{signature(thing)}"
    elif get_origin(thing) is not None:
        yield f"{name}: type"
    elif isinstance(thing, int | str) and not isinstance(thing, bool):
        yield f"{name} = {thing!r}" if len(str(thing)) < 20 else f"{name}: {type(thing).__name__}"
    else:
        yield f"{name}: {type(thing).__name__}"


def members(cls: type) -> dict[str, str]:
    """Fields with their types and defaults, methods with their signatures, properties, class attributes."""
    found: dict[str, str] = {}
    for owner in reversed([base for base in cls.__mro__ if base.__module__.startswith("vtprune")]):
        annotations = vars(owner).get("__annotations__", {})
        found |= {name: f": {annotation}{default(cls, name)}" for name, annotation in annotations.items()}
        for name, value in vars(owner).items():
            value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            abstract = "abstract" if getattr(value, "__isabstractmethod__", False) else ""
            if isinstance(value, property):
                found[name] = f" -> {annotation_of(value.fget)} ({abstract or 'property'})"
            elif inspect.isfunction(value) and name not in annotations:
                found[name] = signature(value) + (f" ({abstract})" if abstract else "")
    return {name: text for name, text in found.items() if not name.startswith("_") and name != "model_config"}


def default(cls: type, name: str) -> str:
    """`` = value``, for a field that has one."""
    if issubclass(cls, BaseModel):
        field = cls.model_fields.get(name)
        if field is None:
            return f" = {getattr(cls, name)!r}" if hasattr(cls, name) else ""
        if field.is_required():
            return ""
        return " = ..." if field.default_factory else f" = {field.default!r}"
    for field_ in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if field_.name == name and field_.default is not dataclasses.MISSING:
            return f" = {ADDRESS.sub('', shown(field_.default))}"
        if field_.name == name and field_.default_factory is not dataclasses.MISSING:
            return " = ..."
    return ""


def shown(value: Any) -> str:
    """A default: a function by its name, a set in order, anything else as Python writes it."""
    if inspect.isfunction(value):
        return f"<{value.__name__}>"
    if isinstance(value, frozenset):
        return "frozenset({" + ", ".join(sorted(map(repr, value))) + "})"
    return repr(value)


def signature(function: Any) -> str:
    """The signature with annotations as the source has them."""
    found = inspect.signature(function).parameters
    parts = []
    kinds = [parameter.kind for parameter in found.values()]
    for index, (name, parameter) in enumerate(found.items()):
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        if parameter.kind is parameter.KEYWORD_ONLY and not {parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL} & {
            *kinds[:index]
        }:
            parts.append("*")
        typed = "" if parameter.annotation is parameter.empty else f": {written(parameter.annotation)}"
        value = "" if parameter.default is parameter.empty else f" = {ADDRESS.sub('', shown(parameter.default))}"
        if name not in ("self", "cls"):
            parts.append(f"{stars}{name}{typed}{value}")
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.POSITIONAL_ONLY not in kinds[index + 1 :]:
            parts.append("/")
    return f"({', '.join(parts)}) -> {annotation_of(function)}"


def annotation_of(function: Any) -> str:
    """What a function returns, as written; a class returns itself."""
    if inspect.isclass(function):
        return function.__name__
    return written(function.__annotations__.get("return", "unknown"))


def written(annotation: Any) -> str:
    """An annotation as the source has it."""
    if isinstance(annotation, ForwardRef):
        return annotation.__forward_arg__
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return STRATEGY.sub("st.SearchStrategy", FORWARD.sub(r"\1", text))


def fields_below(model: type[BaseModel], seen: set[type] | None = None) -> Iterator[str]:
    """The fields of a model, and of the models of its own module that they hold."""
    seen = set() if seen is None else seen
    seen.add(model)
    inside: list[type[BaseModel]] = []
    for name, field in model.model_fields.items():
        annotation = next(vars(c)["__annotations__"][name] for c in model.__mro__ if name in c.__annotations__)
        yield f"{model.__name__}.{name}: {annotation}{default(model, name)}"
        inside += [part for part in models_in(field.annotation) if part.__module__ == model.__module__]
    for part in inside:
        if part not in seen:
            yield from fields_below(part, seen)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Pydantic models that a type is made of."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from models_in(part)


def report() -> Report:
    """A report with one of everything, for its keys."""
    layout = SampleLayout(torch.arange(4), (Segment(0, 0, 4, (1, 2, 2)),))
    event = Event(0, 2, 0, (1,), (torch.tensor([3]),))
    recipe = Recipe.load("fastv")
    made: dict[str, Any] = {field.name: 0 for field in dataclasses.fields(Report)}
    made |= {"recipe": recipe, "layouts": [layout], "events": [event], "components": of_parts(list(recipe.stages))}
    made |= {"text_tokens": [1], "stage_seconds": [0.0], "vision_tokens": [[4]], "kv_tokens": [[[1]]]}
    return Report(**made | {"flops_parts": {}, "versions": {}})


def keys(data: Any, path: str = "") -> Iterator[str]:
    """The paths of a nested mapping; ``[]`` for the entries of a list."""
    if isinstance(data, dict) and data:
        for name, value in data.items():
            yield from keys(value, f"{path}.{name}" if path else name)
    elif isinstance(data, list) and data and isinstance(data[0], dict):
        yield from keys(data[0], f"{path}[]")
    else:
        yield path


def plugin_contract() -> Iterator[str]:
    """The entry-point group, the API's number, the hook and what it may register."""
    from vtprune.core.plugins import API, GROUP
    from vtprune.core.plugins.hooks import Hooks
    from vtprune.core.plugins.loader import DECLARATION
    from vtprune.core.recipe import SCHEMA
    from vtprune.core.registry import KINDS

    yield f"entry-point group: {GROUP}"
    yield f"{DECLARATION}: {API}"
    for name, hook in vars(Hooks).items():
        if not name.startswith("_"):
            yield f"hook: {name}{signature(hook)}"
    yield f"kinds: {', '.join(KINDS)}"
    yield f"recipe schema_version: {SCHEMA}"


def commands() -> list[str]:
    """Every command with its arguments and options, as declared: typer's own objects differ between its versions."""
    from vtprune.cli import app

    return sorted(walk(app, "vtprune"))


def walk(app: typer.Typer, path: str) -> Iterator[str]:
    """The commands of an application and of the applications inside it."""
    if app.registered_callback and app.registered_callback.callback:
        yield " ".join([path, *parameters(app.registered_callback.callback)])
    for info in app.registered_commands:
        assert info.callback is not None
        if not info.hidden:
            yield " ".join([f"{path} {info.name or info.callback.__name__}", *parameters(info.callback)])
    for group in app.registered_groups:
        assert group.typer_instance is not None
        if not group.hidden:
            yield from walk(group.typer_instance, f"{path} {group.name}")


def parameters(callback: Any) -> Iterator[str]:
    """``NAME`` of an argument, ``--name TYPE`` of an option; those that may be left out in brackets."""
    hints = get_type_hints(callback, include_extras=True)
    for name, found in inspect.signature(callback).parameters.items():
        annotation, info = split(hints[name])
        if getattr(info, "hidden", False):
            continue
        many = "..." if get_origin(annotation) is list else ""
        plain = get_args(annotation)[0] if many else annotation
        if isinstance(info, ArgumentInfo):
            shown_name = (info.metavar or name).strip("[].").upper() + many
        else:
            switch = f"--{name.replace('_', '-')}"
            # Annotated options are declared by what would otherwise be their default.
            names = [n for n in (info.default, *(info.param_decls or ())) if isinstance(n, str)] or (
                [f"{switch}/--no-{switch[2:]}"] if plain is bool else [switch]
            )
            shown_name = "|".join(names) + ("" if plain is bool else f" {choices(plain)}") + many
        yield shown_name if found.default is found.empty else f"[{shown_name}]"


def split(hint: Any) -> tuple[Any, Any]:
    """The type of a parameter, without None, and what typer was told of it."""
    annotation, *extras = get_args(hint)
    info = next(extra for extra in extras if isinstance(extra, ArgumentInfo | OptionInfo))
    parts = [part for part in get_args(annotation) if part is not type(None)]
    return (parts[0] if type(None) in get_args(annotation) else annotation), info


def choices(kind: Any) -> str:
    """The values of an enumeration, else the name of a type."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "{" + ",".join(str(member.value) for member in kind) + "}"
    return str(kind.__name__).upper()


def variables() -> set[str]:
    """Environment variables, and module variables, that vtprune reads."""
    sources = (path.read_text(encoding="utf-8") for path in sorted((ROOT / "vtprune").rglob("*.py")))
    return {name for source in sources for name in VARIABLE.findall(source)}


if __name__ == "__main__":
    from generated import main

    sys.exit(main(FILE, text, "python tools/public_api.py"))
