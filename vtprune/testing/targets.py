"""What can be checked: names, distributions, classes and files, each turned into components and adapters."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtprune.core.adapter import Adapter
from vtprune.core.component import Component
from vtprune.core.conformance import file_hash
from vtprune.core.errors import UnknownNameError, VtpruneError, did_you_mean
from vtprune.core.plugins import GROUP, plugins, registry
from vtprune.core.plugins.absent import why_absent
from vtprune.core.plugins.plugin import canonical
from vtprune.core.registry import Registration
from vtprune.testing.checking import Check, all_checks, checks_for
from vtprune.testing.run import CHECKED, Outcome, check_component, place_of

KINDS = (*CHECKED, "adapter")
"""Kinds of registered things that have checks."""


@dataclass(frozen=True)
class Target:
    """One component or adapter. title: how it is called in what is printed; entry: its registration, if it has one.

    found: the class, instance or adapter; None where it is loaded from the registry when it is checked.
    """

    title: str
    kind: str
    entry: Registration | None = None
    found: Any = None

    def checks(self) -> list[Check]:
        """The checks that concern its kind."""
        return checks_for(self.kind)

    def run(self, only: Sequence[str]) -> tuple[Outcome, ...]:
        """Every outcome of these checks; raises what making the instances raises."""
        found = self.found if self.entry is None else registry().load(self.kind, self.entry.name)
        if self.kind == "adapter":
            from vtprune.testing import check_adapter

            return check_adapter(found, only=only, raises=False)
        return check_component(found, only=only, raises=False)


def targets_of(text: str) -> list[Target]:
    """What a word names: a registered name, a distribution, ``module:attribute``, or the path of a Python file.

    Raises UnknownNameError, with the nearest names, for what is none of these; VtpruneError for a file or module that
    holds nothing to check, or cannot be imported.
    """
    if text.endswith(".py"):
        return list(_of_file(Path(text)))
    if ":" in text:
        return [_of_attribute(text)]
    entries = [entry for entry in registry().entries() if entry.kind in KINDS]
    if named := [entry for entry in entries if entry.name == text]:
        return [_of_entry(entry) for entry in named]
    if owned := [entry for entry in entries if entry.origin == text]:
        return [_of_entry(entry) for entry in owned]
    recipes = registry().names("recipe")
    if text in recipes:
        raise UnknownNameError(f"{text!r} is a recipe, which has no conformance checks; use `vtprune validate {text}`")
    known = {entry.name for entry in entries} | {entry.origin for entry in entries}
    said = why_absent("name", text, plugins(), registry()) if "/" in text else _why_nothing(text)
    raise UnknownNameError(
        f"{text!r} is neither a registered name nor a distribution that registers any.{said}"
        f"{did_you_mean(text, known)} A class is named 'module:Class', a file by its path with .py."
    )


def _why_nothing(distribution: str) -> str:
    """Why a distribution whose plugins are installed has nothing to check, after a space; empty for any other word."""
    origin = canonical(distribution)
    found = [plugin for plugin in plugins() if plugin.distribution == origin != GROUP]
    if broken := [str(plugin) for plugin in found if plugin.state != "active"]:
        return f" {'; '.join(broken)}. `vtprune plugins` shows more."
    return f" Write {origin!r}: distributions are named in lower case, with dashes." if found else ""


def distribution(name: str) -> list[Target]:
    """Everything to check that a distribution registered."""
    return [_of_entry(entry) for entry in registry().entries() if entry.kind in KINDS and entry.origin == name]


def _of_entry(entry: Registration) -> Target:
    return Target(f"{entry.kind} {entry.name}", entry.kind, entry)


def _of_attribute(text: str) -> Target:
    module, _, attribute = text.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UnknownNameError(f"{text!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(found, attribute):
        raise UnknownNameError(f"{module} has no {attribute!r}.{did_you_mean(attribute, _public(found))}")
    return _of_object(text, getattr(found, attribute))


def _public(module: Any) -> list[str]:
    return [name for name, value in vars(module).items() if _kind(value) and not name.startswith("_")]


def _of_object(title: str, found: Any) -> Target:
    kind = _kind(found)
    if kind is None and (lacking := _unfinished(found)):
        raise VtpruneError(f"{title} cannot be checked: {lacking}")
    if kind is None:
        raise VtpruneError(
            f"{title} is {found!r}, no component and no adapter; expected a class derived from Scorer, Allocator, "
            f"Selector, Reducer or Task, an instance of one, or an Adapter"
        )
    return Target(title, kind, found=found)


def _kind(found: Any) -> str | None:
    if isinstance(found, Adapter):
        return "adapter"
    is_class = isinstance(found, type) and issubclass(found, Component) and not inspect.isabstract(found)
    return getattr(found, "kind", None) if is_class or isinstance(found, Component) else None


def _unfinished(found: Any) -> str:
    """What an abstract class of components lacks; empty for anything else."""
    if not (isinstance(found, type) and issubclass(found, Component) and inspect.isabstract(found)):
        return ""
    lacks = sorted(found.__abstractmethods__)
    own = [name for name in vars(found) if not name.startswith("_")]
    near = {name: difflib.get_close_matches(name, own, n=1) for name in lacks}
    return f"{found.__name__} lacks " + ", ".join(
        f"the method {name!r}" + (f" (it has {near[name][0]!r})" if near[name] else "") for name in lacks
    )


def _is_registered(adapter: Adapter) -> bool:
    """Whether an adapter is a registered one, which a file only imported."""
    places = (entry.target.partition(":") for entry in registry().entries("adapter"))
    return any(getattr(sys.modules.get(module), attribute, None) is adapter for module, _, attribute in places)


def _of_file(path: Path) -> Iterator[Target]:
    """Component classes and adapters that a file defines; it is imported under a name of its own."""
    if not path.is_file():
        raise UnknownNameError(f"no such file: {path}; the current directory is {Path.cwd()}")
    name = f"_vtprune_checked_{path.stem}_{file_hash(path)[:8]}"
    module = sys.modules.get(name)
    if module is None:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise VtpruneError(
                f"{path} cannot be imported: {type(error).__name__}: {error}{place_of(error)}"
            ) from error
    own = [
        Target(f"{path.name}:{attribute}", kind, found=value)
        for attribute, value in vars(module).items()
        if (kind := _kind(value))
        and (not _is_registered(value) if kind == "adapter" else getattr(value, "__module__", "") == name)
    ]
    if not own:
        mine = [value for value in vars(module).values() if getattr(value, "__module__", "") == name]
        lacking = "".join(f"; {said}" for value in mine if (said := _unfinished(value)))
        raise VtpruneError(
            f"{path} defines nothing to check: no concrete class derived from Scorer, Allocator, Selector, Reducer or "
            f"Task, and no Adapter{lacking}"
        )
    yield from own


def chosen(names: Sequence[str], in_model: bool) -> list[str]:
    """Names of the checks to run: all or those named, with or without those that run a model.

    Raises UnknownNameError for a check that does not exist, with the nearest names.
    """
    every = all_checks()
    for name in names:
        if name not in every:
            raise UnknownNameError(f"no check {name!r}.{did_you_mean(name, every)}")
    return [name for name, check in every.items() if name in (names or every) and (in_model or not check.slow)]
