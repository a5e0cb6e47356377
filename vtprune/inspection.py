"""Looking at a model without its weights: which adapter serves it, which sites it has, what is missing and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vtprune.core.errors import VtpruneError

if TYPE_CHECKING:
    from vtprune.core.adapter import Adapter, Parts
    from vtprune.core.recognise import Recognition

WHY = {
    "grid": "how tokens lie in the image is unknown, or they form no rectangle",
    "vision_attention": "which rows of the tower make up a token is unknown, or a token is made of all of them",
    "sample_seed": "which pixels are an image's own is unknown",
}


@dataclass(frozen=True)
class Inspection:
    """What `inspect_model` found.

    adapter: name of the one used, None if the model cannot be served; origin: who wrote it.
    modules: paths with a few words each, by what they are; sites: which stages can act, or why they cannot.
    provided, withheld: signal kinds, the latter with the reason; missing: why the model cannot be served.
    """

    model: str
    adapter: str | None
    origin: str
    modules: dict[str, str]
    sites: dict[str, str] = field(default_factory=dict)
    provided: tuple[str, ...] = ()
    withheld: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def inspect_model(model: Any) -> Inspection:
    """Look at a model; its parameters may lie on the meta device."""
    from vtprune.core.lookup import is_known, locate
    from vtprune.core.recognise import examine, wrapping

    kind = type(model)
    names = [ancestor.__name__ for ancestor in kind.__mro__]
    known = is_known(names)
    if not known and (reason := wrapping(model)):
        return Inspection(kind.__name__, None, "none", {}, missing=(reason,))
    seen = examine(model)
    modules = {label: _about(model, label, path) for label, path in seen.found.items()}
    if not known:
        if seen.adapter is None:
            return Inspection(kind.__name__, None, "none", modules, missing=seen.missing, notes=seen.notes)
        return _served(kind.__name__, _quietly_located(model), "recognised by its structure, not verified", seen)
    try:
        parts = locate(model)
        return _served(kind.__name__, parts, _origin(parts.adapter), None)
    except VtpruneError as error:
        return Inspection(kind.__name__, None, "a registered one, which refuses it", modules, missing=(str(error),))


def _quietly_located(model: Any) -> Parts:
    import warnings

    from vtprune.core.lookup import locate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return locate(model)


def _served(name: str, parts: Parts, origin: str, seen: Recognition | None) -> Inspection:
    adapter = parts.adapter
    modules = {f"{kind} placeholder": f"config.{attribute}" for kind, attribute in adapter.placeholders.items()}
    modules.update({label: _of_parts(parts, label, path) for label, path in _paths(adapter).items() if path})
    from vtprune.core.signals import KINDS

    withheld = {
        kind: WHY.get(kind, "the family has no meaning for it") for kind in KINDS if kind not in adapter.provides
    }
    notes = () if seen is None else seen.notes
    return Inspection(
        name, adapter.name, origin, modules, _sites(parts), tuple(sorted(adapter.provides)), withheld, (), notes
    )


def _paths(adapter: Adapter) -> dict[str, str | None]:
    return {
        "language model": adapter.language_model,
        "vision tower": adapter.vision_tower,
        "vision layers": adapter.vision_layers,
        "vision attention": adapter.vision_attention,
        "projector": adapter.projector,
        "mergers": ", ".join(adapter.mergers),
        "video tower": adapter.video_tower,
    }


def _of_parts(parts: Parts, label: str, path: str) -> str:
    if label == "language model":
        from vtprune.core.engine.layers import heads_in_words

        return f"{path}: {type(parts.language_model).__name__}, {parts.depth} layers of {heads_in_words(parts)}"
    if label == "vision tower":
        return f"{path}: {type(parts.vision_tower).__name__}"
    if label == "vision layers":
        return f"{path}: {len(parts.vision_layers)} layers"
    if label == "projector" and parts.projector is not None:
        return f"{path}: {type(parts.projector).__name__}"
    return path


def _about(model: Any, label: str, path: str) -> str:
    """A path that was found in a model that cannot be served."""
    if label in ("language model", "vision tower", "projector"):
        module = model.base_model.get_submodule(path)
        layers = getattr(module, "layers", None)
        return f"{path}: {type(module).__name__}" + (f", {len(layers)} layers" if layers is not None else "")
    return path


def _sites(parts: Parts) -> dict[str, str]:
    from vtprune.core.engine.layers import layer_kinds

    adapter, last = parts.adapter, parts.depth - 1
    kinds = layer_kinds(parts)
    lacking = [kind.index for kind in kinds if not kind.has_cache]
    cached = f"layers 0 to {last}" + (f", without {', '.join(map(str, lacking))}" if lacking else "")
    output = "yes"
    if parts.projector is None:
        output = "no: the family has no projector of its own"
    elif adapter.projector_rows is None:
        output = "no: which rows of the projector's input make up a token is unknown (no projector_rows)"
    inside = "no: the family declares no tower_depth"
    if adapter.tower_depth is not None and parts.vision_layers:
        inside = f"layers 0 to {adapter.tower_depth(parts.model) - 1}"
    return {
        "vision.layers[i]": inside,
        "vision.output": output,
        "projector.output": "yes",
        "llm.layers[i]": f"layers 0 to {last}",
        "llm.layers[i].kv": cached,
    }


def _origin(adapter: Adapter) -> str:
    """Under which name an adapter is registered, and by whom."""
    from vtprune.core.plugins import registry

    for entry in registry().entries("adapter"):
        if registry().load("adapter", entry.name) is adapter:
            return f"{entry.name}, from {entry.origin} {entry.version}"
    return adapter.name
