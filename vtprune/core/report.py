"""The run report: what really happened, requested next to realised.

The engine appends to a `Report` while the model runs; reading it never touches the model. Rendering is in
`vtprune.core.tables`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtprune.core.errors import ReportError, UnknownNameError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from torch import Tensor

    from vtprune.core.layout import SampleLayout
    from vtprune.core.provenance import Provenance
    from vtprune.core.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Event:
    """One stage acting on one sample at one layer: a decoder layer, or a vision layer at ``vision.layers[I]``.

    requested: tokens asked for, one entry per KV head where the stage decides per head, else one.
    kept: as many int64 tensors ``[vision]``, each the sorted indices that were kept, counted among the sample's vision
        tokens in the prompt as it came in. They may live on any device.
    diagnostics: named numbers of the allocator.
    """

    stage: int
    layer: int
    sample: int
    requested: tuple[int, ...]
    kept: tuple[Tensor, ...]
    diagnostics: Mapping[str, float] = field(default_factory=dict)

    @property
    def realised(self) -> tuple[int, ...]:
        """Tokens really kept, in the shape of ``requested``."""
        return tuple(int(indices.numel()) for indices in self.kept)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; counts and indices are lists per KV head where the stage decided per head. A diagnostic that
        is not a finite number becomes null."""
        kept = [indices.tolist() for indices in self.kept]
        per_head = len(kept) != 1
        return {
            "layer": self.layer,
            "sample": self.sample,
            "requested": list(self.requested) if per_head else self.requested[0],
            "realised": list(self.realised) if per_head else self.realised[0],
            "kept": kept if per_head else kept[0],
            "diagnostics": {key: _finite(value) for key, value in self.diagnostics.items()},
        }


@dataclass(eq=False, repr=False)
class Report:
    """What a run did.

    family: the adapter's name; model: the model's class name; depth: decoder layers; kv_heads: KV heads of each (of
        the layer with most, where they differ).
    layouts, text_tokens: per sample, the vision tokens of the prompt and the number of other tokens.
    events: what each stage did, in the order it happened; stage_seconds: time spent in each stage.
    vision_tokens: ``[sample][layer]``, vision tokens in the hidden states that enter each decoder layer.
    kv_tokens: ``[sample][layer][kv_head]``, vision tokens left in the cache after the prompt; nothing for a layer that
        has no keys and values of its own.
    kv_bytes, kv_bytes_full: the KV cache after the prompt, with and without pruning.
    flops, flops_full: the whole run, with and without pruning; flops_parts: the same by part.
    new_tokens: decoding steps seen so far.
    versions: of vtprune, its main dependencies and the distributions of the plugins involved.
    components: where the adapter (if it is a registered one) and each component of the recipe come from.
    """

    recipe: Recipe
    family: str
    model: str
    depth: int
    kv_heads: int
    layouts: list[SampleLayout]
    text_tokens: list[int]
    events: list[Event]
    stage_seconds: list[float]
    vision_tokens: list[list[int]]
    kv_tokens: list[list[list[int]]]
    kv_bytes: int
    kv_bytes_full: int
    flops: int
    flops_full: int
    flops_parts: dict[str, int]
    new_tokens: int
    versions: dict[str, str]
    components: tuple[Provenance, ...] = ()

    @property
    def mean_tokens_over_layers(self) -> float:
        """Vision tokens entering a decoder layer, averaged over the samples with an image and over all layers."""
        return _mean(count for counts in self._with_image(self.vision_tokens) for count in counts)

    @property
    def mean_kv_tokens_over_layers(self) -> float:
        """Vision tokens in the cache after the prompt, averaged over the samples with an image, layers and KV heads."""
        return _mean(count for layers in self._with_image(self.kv_tokens) for heads in layers for count in heads)

    @property
    def tokens_at_llm_input(self) -> float | int:
        """Vision tokens entering decoder layer 0, averaged over the samples with an image; an int if integral."""
        mean = _mean(counts[0] for counts in self._with_image(self.vision_tokens) if counts)
        return int(mean) if mean.is_integer() else mean

    @property
    def tokens_in_prompt(self) -> float:
        """Vision tokens in the prompt as it came in, averaged over the samples with an image."""
        return _mean(layout.vision for layout in self.layouts if layout.vision)

    def _with_image(self, per_sample: list[Any]) -> list[Any]:
        return [entry for layout, entry in zip(self.layouts, per_sample, strict=False) if layout.vision]

    def stage_events(self, stage: int) -> list[Event]:
        """The events of one stage, in the order they happened; raises ReportError for a stage out of range."""
        _check("stage", stage, len(self.recipe.stages), f"recipe {self.recipe.name!r}")
        return [event for event in self.events if event.stage == stage]

    def kept(self, stage: int = 0, sample: int = 0, layer: int | None = None, head: int | None = None) -> list[int]:
        """Sorted indices a stage kept, counted among the sample's vision tokens in the prompt as it came in.

        layer: None means, at a site that drops tokens, the last layer the stage acted on and, at a ``.kv`` site, the
            union over its layers. head: a KV head of a ``.kv`` site; None means the union over KV heads.
        A sample without an image gives an empty list. Negative numbers are not accepted. Raises ReportError for a
        stage, sample, layer or head that does not exist, and for a stage that has not acted yet.
        """
        events = self.stage_events(stage)
        _check("sample", sample, len(self.layouts), "the batch")
        site = self.recipe.stages[stage].site
        if layer is not None and not site.is_tower:
            _check("layer", layer, self.depth, self.model)
        if head is not None:
            if site.kind != "kv":
                raise ReportError(
                    f"head={head} was asked of stage {stage} ({site}), which drops whole tokens for all heads; "
                    f"leave head out"
                )
            _check("head", head, self.kv_heads, f"{self.model} (KV heads)")
        if not self.layouts[sample].vision:
            return []
        events = [event for event in events if event.sample == sample]
        if not events:
            raise ReportError(f"stage {stage} ({site}) has not acted on sample {sample} yet; run the model first")
        if layer is not None:
            acted = sorted({event.layer for event in events})
            events = [event for event in events if event.layer == layer]
            if not events:
                raise ReportError(f"stage {stage} ({site}) did not act at layer {layer}; it acted at layers {acted}")
        elif site.kind != "kv":
            events = [max(events, key=lambda event: event.layer)]
        found: set[int] = set()
        for event in events:
            one = len(event.kept) == 1
            chosen = event.kept if head is None or one else (event.kept[head],)
            found.update(*(indices.tolist() for indices in chosen))
        return sorted(found)

    def _recipe_hash(self) -> str | None:
        try:
            return self.recipe.hash
        except UnknownNameError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data: everything in the report. A component that nothing has registered stands by its class, and
        the recipe's hash is then None."""
        from vtprune.core.spec import described

        return {
            "recipe": {
                "name": self.recipe.name,
                "hash": self._recipe_hash(),
                "paper": self.recipe.paper,
                "replace": dict(self.recipe.replace),
                "stages": described(self.recipe)["stages"],
            },
            "family": self.family,
            "model": self.model,
            "depth": self.depth,
            "kv_heads": self.kv_heads,
            "versions": dict(self.versions),
            "components": [part.to_dict() for part in self.components],
            "stages": [self._stage(stage) for stage in range(len(self.recipe.stages))],
            "samples": [
                {
                    "vision": layout.vision,
                    "text": text,
                    "segments": [
                        {"kind": s.kind, "start": s.start, "stop": s.stop, "grid": list(s.grid) if s.grid else None}
                        for s in layout.segments
                    ],
                }
                for layout, text in zip(self.layouts, self.text_tokens, strict=True)
            ],
            "kv_bytes": self.kv_bytes,
            "kv_bytes_full": self.kv_bytes_full,
            "flops": self.flops,
            "flops_full": self.flops_full,
            "flops_parts": dict(self.flops_parts),
            "mean_tokens_over_layers": self.mean_tokens_over_layers,
            "mean_kv_tokens_over_layers": self.mean_kv_tokens_over_layers,
            "tokens_at_llm_input": self.tokens_at_llm_input,
            "vision_tokens": [list(counts) for counts in self.vision_tokens],
            "kv_tokens": [[list(heads) for heads in layers] for layers in self.kv_tokens],
            "new_tokens": self.new_tokens,
        }

    def _stage(self, stage: int) -> dict[str, Any]:
        events = self.stage_events(stage)
        return {
            "stage": stage,
            "site": str(self.recipe.stages[stage].site),
            "seconds": self.stage_seconds[stage],
            "requested": sum(sum(event.requested) for event in events),
            "realised": sum(sum(event.realised) for event in events),
            "events": [event.to_dict() for event in events],
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """`to_dict` as JSON text; also written to ``path`` if given."""
        text = json.dumps(self.to_dict(), allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def __rich__(self) -> RenderableType:
        from vtprune.core.tables import render

        return render(self)

    def __str__(self) -> str:
        from vtprune.core.tables import as_text

        return as_text(self)

    def __repr__(self) -> str:
        return (
            f"<Report of {self.recipe.name!r} on {self.model}: {len(self.layouts)} samples, {len(self.events)} events>"
        )

    def _repr_html_(self) -> str:
        from vtprune.core.tables import as_html

        return as_html(self)


def _check(what: str, value: int, count: int, owner: str) -> None:
    if not 0 <= value < count:
        there = f"0 to {count - 1}" if count else "none"
        extra = "; negative numbers are not accepted" if value < 0 else ""
        raise ReportError(f"{what} {value} does not exist; {owner} has {there}{extra}")


def _mean(numbers: Iterable[int]) -> float:
    """The mean, or 0.0 of nothing (no sample has an image, or the model has not run)."""
    found = list(numbers)
    return sum(found) / len(found) if found else 0.0


def _finite(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
