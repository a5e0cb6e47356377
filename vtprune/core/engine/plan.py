"""Binding: a recipe held against a model, before anything runs.

Every stage's needs are compared with what the adapter provides at its site; every layer, head and option is checked;
all problems are raised together. The result says which modules to hook and which attention to capture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from vtprune.core.adapter import Parts
from vtprune.core.engine import tower_faults
from vtprune.core.engine.attention import check_implementation, implementation
from vtprune.core.engine.layers import LayerKind, attention_fault, depth_fault, layer_kinds, site_faults
from vtprune.core.errors import BindingError
from vtprune.core.lookup import locate
from vtprune.core.recipe import Recipe, Stage, build_name
from vtprune.core.signals import Need

LANGUAGE = frozenset({"attention", "keys", "values", "queries"})


@dataclass(frozen=True)
class BoundStage:
    """A stage with its layers.

    layers are decoder layers, or vision layers if ``is_tower``. source: for each of them the decoder layer whose
    attention, keys and values it reads there.
    """

    index: int
    stage: Stage
    layers: tuple[int, ...]
    source: dict[int, int]
    needs: frozenset[Need]

    @property
    def is_kv(self) -> bool:
        """Whether it evicts from the cache rather than dropping hidden states."""
        return self.stage.site.kind == "kv"

    @property
    def is_tower(self) -> bool:
        """Whether it acts inside the vision tower."""
        return self.stage.site.is_tower

    def resolved(self, need: Need, layer: int) -> Need:
        """The need with its decoder layer filled in, as it is captured and stored."""
        if need.kind in LANGUAGE and need.layer is None:
            return Need(need.kind, need.query, self.source[layer])
        return need


@dataclass(frozen=True)
class Plan:
    """What the engine does.

    captures: for each decoder layer the needs to capture there, each with the (first) stage that asked for it.
    vision_needs: vision attention to capture; vision_features: whether the projector's input is wanted.
    kinds: what each decoder layer is.
    """

    recipe: Recipe
    parts: Parts
    stages: tuple[BoundStage, ...]
    captures: dict[int, dict[Need, int]]
    vision_needs: frozenset[Need]
    vision_features: bool
    kinds: tuple[LayerKind, ...]

    @property
    def kv_heads(self) -> int:
        """KV heads of the layer with most."""
        return max(kind.kv_heads for kind in self.kinds)

    def at(self, layer: int, is_kv: bool) -> Iterator[BoundStage]:
        """The stages that act at a decoder layer, in recipe order."""
        return (b for b in self.stages if b.is_kv == is_kv and layer in b.layers and not b.is_tower)


def component_needs(stage: Stage) -> dict[str, frozenset[Need]]:
    """Who in a stage needs what, by a readable name."""
    found = {}
    for kind in ("scorer", "allocator", "selector", "reducer"):
        component = getattr(stage, kind)
        if component is not None:
            found[f"{kind} {build_name(kind, component)!r}"] = component.needs()
    source = stage.selector.feature_source
    if source is not None:
        name = f"selector {build_name('selector', stage.selector)!r}"
        found[name] = found[name] | {Need(source)}
    return found


def bind(recipe: Recipe, model: nn.Module) -> Plan:
    """Check a recipe against a model; raises UnsupportedModelError or BindingError (every problem at once)."""
    parts = locate(model, recipe.replace)
    if problem := depth_fault(parts):
        raise BindingError([problem], recipe.name, type(model).__name__)
    kinds = layer_kinds(parts)
    problems: list[str] = []
    captures: dict[int, dict[Need, int]] = defaultdict(dict)
    vision: set[Need] = set()
    bound: list[BoundStage] = []
    if problem := check_implementation(parts.language_model.config, "language model"):
        problems.append(problem)
    for index, stage in enumerate(recipe.stages):
        where = f"stages[{index}]"
        inside = stage.site.is_tower
        if inside and (problem := tower_faults.no_tower_site(stage, parts)):
            problems.append(f"{where}: {problem}")
            continue
        try:
            layers = stage.site.layers(len(parts.vision_layers) if inside else parts.depth)
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        flash = "flash" in implementation(parts.language_model.config)
        own = tower_faults.layer_faults(stage, layers, parts) if inside else site_faults(stage, layers, kinds, flash)
        problems.extend(f"{where}: {fault}" for fault in own)
        lag = 0 if stage.site.kind == "kv" else 1
        source = {layer: layer - lag for layer in layers}
        by_owner = component_needs(stage)
        item = BoundStage(index, stage, layers, source, frozenset().union(*by_owner.values()))
        for owner, needs in by_owner.items():
            for need in sorted(needs, key=str):
                faults = list(_faults(need, item, parts, kinds))
                if inside and not faults:
                    faults = list(tower_faults.need_faults(need, stage, layers, parts))
                problems.extend(f"{where}: {owner} needs {need}, but {fault}" for fault in faults)
                if faults:
                    continue
                if need.kind in LANGUAGE:
                    for layer in layers:
                        resolved = item.resolved(need, layer)
                        assert resolved.layer is not None
                        captures[resolved.layer].setdefault(resolved, index)
                elif need.kind == "vision_attention":
                    vision.add(need)
        bound.append(item)
        if stage.site.kind == "vision" and (parts.projector is None or parts.adapter.projector_rows is None):
            problems.append(
                f"{where}: adapter {parts.adapter.name!r} has no map from the projector's input to the language "
                f"model's tokens, so {stage.site} is not a site of this model; use projector.output"
            )
    problems.extend(_conflicts(bound))
    inside = any(item.is_tower for item in bound)
    if (vision or inside) and (problem := check_implementation(parts.vision_tower.config, "vision tower")):
        problems.append(problem)
    if vision and "flash" in implementation(parts.vision_tower.config):
        problems.append("attention inside the vision tower cannot be read with a flash kernel; load it with sdpa")
    if problems:
        raise BindingError(problems, recipe.name, type(model).__name__)
    features = any(item.stage.site.kind == "vision" for item in bound)
    return Plan(recipe, parts, tuple(bound), dict(captures), frozenset(vision), features, kinds)


def _faults(need: Need, item: BoundStage, parts: Parts, kinds: tuple[LayerKind, ...]) -> Iterator[str]:
    site, adapter = item.stage.site, parts.adapter
    if need.kind == "vision_attention" and adapter.tower_rows is None:
        yield from _vision_faults(need, parts)
    elif need.kind not in adapter.provides:
        yield f"adapter {adapter.name!r} does not provide it; it provides {', '.join(sorted(adapter.provides))}"
    elif need.kind in LANGUAGE and site.is_input:
        yield f"{site} lies before the language model; use a site llm.layers[i] with i >= 1, or llm.layers[i].kv"
    elif need.kind in LANGUAGE and need.layer is None and item.source[item.layers[0]] < 0:
        yield "no layer has run before layer 0; use llm.layers[1] or later, or llm.layers[0].kv"
    elif need.kind in LANGUAGE and need.layer is not None and not 0 <= need.layer < parts.depth:
        yield f"layer {need.layer} is out of range; the language model has layers 0 to {parts.depth - 1}"
    elif need.kind in LANGUAGE and need.layer is not None and need.layer > item.source[item.layers[0]]:
        yield f"layer {need.layer} has not run when {site} is reached; the latest is {item.source[item.layers[0]]}"
    elif need.kind in LANGUAGE and (site.kind != "kv" or need.layer is not None):  # else the site itself is refused
        sources = dict.fromkeys(item.source[layer] if need.layer is None else need.layer for layer in item.layers)
        yield from list(filter(None, (attention_fault(source, kinds) for source in sources)))[:1]
    elif need.kind == "text" and site.kind == "vision":
        yield f"text embeddings do not live in the space of {site}; use projector.output or llm.layers[i]"
    elif need.kind == "vision_attention":
        yield from _vision_faults(need, parts)


def _vision_faults(need: Need, parts: Parts) -> Iterator[str]:
    depth = len(parts.vision_attention)
    assert need.layer is not None
    if parts.adapter.tower_rows is None or not depth:
        yield (
            f"adapter {parts.adapter.name!r} has no map from the rows of the vision tower to the language model's "
            f"tokens; use a signal of the site itself (features) or of the language model (attention, keys)"
        )
        return
    if not -depth <= need.layer < depth:
        yield f"vision layer {need.layer} is out of range; the tower has layers 0 to {depth - 1} (or -{depth} to -1)"
    if need.query == "cls" and parts.adapter.cls_row(parts.model) is None:
        yield (
            f"this {type(parts.model).__name__} has no CLS token whose attention falls on the language model's tokens; "
            f"use query: received, which reads the mean attention that each patch receives"
        )


def _conflicts(bound: list[BoundStage]) -> Iterator[str]:
    seen: dict[int, int] = {}
    for item in bound:
        if not item.is_kv:
            continue
        for layer in item.layers:
            if layer in seen:
                yield f"stages[{item.index}]: the cache of layer {layer} is already pruned by stages[{seen[layer]}]"
                break
            seen[layer] = item.index
    drops = [item for item in bound if not item.is_kv]
    for earlier, later in pairwise(drops):
        inside = later.is_tower, earlier.is_tower
        if inside == (True, False) or (inside[0] == inside[1] and later.layers[0] < earlier.layers[-1]):
            yield (
                f"stages[{later.index}] ({later.stage.site}) starts before stages[{earlier.index}] "
                f"({earlier.stage.site}) has ended; list the stages in the order in which the model runs"
            )
        elif earlier.stage.site.kind == later.stage.site.kind == "vision" or (
            earlier.stage.site.kind == "projector" and later.stage.site.kind == "vision"
        ):
            yield f"stages[{later.index}]: {later.stage.site} comes before {earlier.stage.site} or repeats it"
