"""Which adapter a model gets, and where its modules are."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter
from typing import Any

from torch import nn

from vtprune.core.adapter import Adapter, Parts
from vtprune.core.errors import PluginError, PluginWarning, UnsupportedModelError, did_you_mean
from vtprune.core.plugins import GROUP, registry
from vtprune.core.registry import Registration

NOTHING: Mapping[str, str] = {}
_serving: ContextVar[tuple[nn.Module, Adapter] | None] = ContextVar("serving", default=None)


@contextmanager
def serving(model: nn.Module, adapter: Adapter) -> Iterator[None]:
    """Let an adapter serve one model for a while, whatever is registered for its class: so adapters are tried out."""
    token = _serving.set((model, adapter))
    try:
        yield
    finally:
        _serving.reset(token)


@dataclass(frozen=True)
class _Claim:
    """An adapter that says it knows a model class."""

    entry: Registration
    adapter: Adapter

    def __str__(self) -> str:
        return f"{self.entry.name!r} of {self.entry.origin} {self.entry.version}"


def _claims() -> tuple[dict[tuple[str, str | None], list[_Claim]], list[str]]:
    """Who claims which model class and type of vision tower (None for any other tower), the built-ins first; and what
    is wrong with the adapters of third parties that cannot be loaded."""
    claims: dict[tuple[str, str | None], list[_Claim]] = {}
    broken: list[str] = []
    for entry in sorted(registry().entries("adapter"), key=lambda entry: (entry.origin != GROUP, entry.name)):
        try:
            adapter = _adapter(entry.name)
        except PluginError as error:
            if entry.origin == GROUP:
                raise
            broken.append(str(error))
            _warn(str(error))
            continue
        for architecture in adapter.architectures:
            for tower in adapter.tower_types or (None,):
                claims.setdefault((architecture, tower), []).append(_Claim(entry, adapter))
    return claims, broken


def _adapter(name: str) -> Adapter:
    """A registered adapter, under its registered name; raises PluginError if what is registered is none."""
    entry, found = registry().entry("adapter", name), registry().load("adapter", name)
    if not isinstance(found, Adapter):
        raise PluginError(
            f"adapter {name!r} of {entry.origin} {entry.version}: {entry.target} is {found!r}, not a vtprune Adapter"
        )
    return found if found.name == name else replace(found, name=name)


@cache
def _warn(text: str) -> None:
    """Say something once a process."""
    warnings.warn(text, PluginWarning, stacklevel=2)


def is_known(class_names: Sequence[str]) -> bool:
    """Whether an adapter is registered for one of these model classes."""
    classes = {architecture for architecture, _ in _claims()[0]}
    return any(name in classes for name in class_names)


def tower_type(config: Any) -> str | None:
    """The model type of a configuration's vision tower, if it says."""
    found = getattr(getattr(config, "vision_config", None), "model_type", None)
    return found if isinstance(found, str) else None


def find_adapter(
    class_names: Sequence[str], tower: str | None = None, replacing: Mapping[str, str] = NOTHING
) -> Adapter:
    """The adapter of the first known model class; raises UnsupportedModelError for an unknown class, and for a family
    that cannot be pruned.

    class_names: a model's class and its ancestors, or the ``architectures`` of a config; tower: its `tower_type`;
    replacing: a recipe's ``replace``. Where several adapters claim a class the built-in one stays in force (a
    PluginWarning names the others); two of third parties are a PluginError, unless ``replacing`` leaves one.
    """
    claims, broken = _claims()
    for name in class_names:
        if found := claims.get((name, tower)) or claims.get((name, None)):
            adapter = _chosen(name, found, replacing)
            if adapter.unsupported:
                raise UnsupportedModelError(f"{name} cannot be pruned: {adapter.unsupported}")
            return adapter
    seen = class_names[0]
    classes = [architecture for architecture, _ in claims]
    raise UnsupportedModelError(
        f"no adapter for model class {seen}.{did_you_mean(seen, classes)} To support a new family, write an adapter (a "
        f"declarative map of about 60 lines) and register it through the 'vtprune' entry point; see docs/adapters.md, "
        f"and `vtprune adapters inspect MODEL`, which writes a skeleton. If {seen} wraps a supported model (PEFT, "
        f"DataParallel, ...), pass the wrapped model." + "".join(f" Not loaded: {text}." for text in broken)
    )


def _chosen(name: str, claims: Sequence[_Claim], replacing: Mapping[str, str]) -> Adapter:
    """The adapter in force among those that claim a model class."""
    left = [claim for claim in claims if claim.entry.name not in replacing]
    for claim in claims:
        if (other := replacing.get(claim.entry.name)) is not None:
            adapter = _adapter(other)
            if name not in adapter.architectures:
                raise UnsupportedModelError(
                    f"replace: {claim.entry.name} is to be {other}, which does not know {name}; it is for "
                    f"{', '.join(adapter.architectures)}"
                )
            return adapter
    first, *others = left
    if others:
        names = ", ".join(map(str, others))
        example = f"replace: {{{first.entry.name}: {others[0].entry.name}}}"
        if first.entry.origin != GROUP:
            raise PluginError(
                f"{name} is claimed by the adapters {first}, {names}; uninstall or disable one of them, or say in the "
                f"recipe which one to take the place of which: `{example}`"
            )
        _warn(
            f"{name} gets the built-in adapter {first.entry.name!r}, though {names} claims it too; a recipe can say "
            f"`{example}`"
        )
    return first.adapter


def adapter_of(model: nn.Module, replacing: Mapping[str, str] = NOTHING) -> Adapter:
    """The adapter of a model: the one that is `serving` it, the registered one of its class, or else one made from its
    structure.

    replacing: as of `find_adapter`. Raises UnsupportedModelError, which for an unknown class lists what was found in
    its structure and what is missing.
    """
    from vtprune.core.recognise import examine, explain, recognise, wrapping

    given = _serving.get()
    if given is not None and given[0] is model:
        if given[1].unsupported:
            raise UnsupportedModelError(f"{type(model).__name__} cannot be pruned: {given[1].unsupported}")
        return given[1]
    names = [ancestor.__name__ for ancestor in type(model).__mro__]
    tower = tower_type(getattr(model, "config", None))
    if is_known(names):
        return find_adapter(names, tower, replacing)
    if reason := wrapping(model):
        raise UnsupportedModelError(reason)
    if (adapter := recognise(model)) is not None:
        return adapter
    try:
        return find_adapter(names)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{error} Its structure was not recognised ({explain(examine(model))}).") from None


def locate(model: nn.Module, replacing: Mapping[str, str] = NOTHING) -> Parts:
    """Find the modules of ``model``; raises UnsupportedModelError if its adapter's paths do not fit.

    replacing: as of `find_adapter`.
    """
    adapter = adapter_of(model, replacing)
    base: nn.Module = model.base_model  # type: ignore[assignment]
    try:
        language_model = attrgetter(adapter.language_model)(base)
        tower = attrgetter(adapter.vision_tower)(base)
        projector = None if adapter.projector is None else attrgetter(adapter.projector)(base)
        mergers = tuple(attrgetter(path)(base) for path in adapter.mergers)
        layers = tuple(language_model.layers)
        attention = tuple(getattr(layer, "self_attn", None) for layer in layers)
        if not any(attention):
            raise AttributeError(f"no decoder layer ({type(layers[0]).__name__}) has a `self_attn`")
        vision, vision_attention = _tower_layers(adapter, tower)
        video: tuple[tuple[nn.Module, ...], ...] = ((), ())
        if adapter.video_tower is not None:
            video = _tower_layers(adapter, attrgetter(adapter.video_tower)(base))
    except AttributeError as error:
        raise UnsupportedModelError(
            f"adapter {adapter.name!r} does not fit this {type(model).__name__}: {error}. The installed transformers "
            f"may have moved a module, or the model mixes parts (another vision tower) that the adapter does not know"
        ) from error
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[operator]
    return Parts(
        adapter,
        model,
        base,
        language_model,
        layers,
        attention,
        tower,
        vision,
        vision_attention,
        projector,
        head,
        mergers,
        *video,
    )


def _tower_layers(adapter: Adapter, tower: nn.Module) -> tuple[tuple[nn.Module, ...], tuple[nn.Module, ...]]:
    """The layers of a tower, and the attention of each."""
    layers = () if adapter.vision_layers is None else tuple(attrgetter(adapter.vision_layers)(tower))
    reads = adapter.vision_attention
    return layers, () if reads is None else tuple(attrgetter(reads)(layer) for layer in layers)
