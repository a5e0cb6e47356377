"""Deciding what a stage keeps: score, allocate, select, and check that every component kept its contract.

Samples whose survivors (and segments) are equally many form a bucket and are decided together; nothing a component sees
is padded. Where everything is kept there is nothing to select.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from vtprune.core.component import Allocation, AllocationRequest, Candidates
from vtprune.core.engine.compiled import uncompilable
from vtprune.core.engine.cost import CostModel
from vtprune.core.engine.flow import Flow
from vtprune.core.engine.images import ImageRecord
from vtprune.core.engine.plan import LANGUAGE, BoundStage
from vtprune.core.errors import BudgetError, ComponentError
from vtprune.core.recipe import build_name
from vtprune.core.signals import Need, Signals
from vtprune.core.target import Programme, resolve


@dataclass
class Choice:
    """What one sample keeps. keep: bool ``[vision]`` or ``[kv_head, vision]`` over its survivors, on the model's
    device; requested: one count, or one per KV head."""

    keep: Tensor
    requested: tuple[int, ...]
    diagnostics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What deciding needs besides the flow. hidden: the hidden states at the site, ``[batch, token, dim]``; seeds:
    content numbers per sample, made when asked for; annotation: a sample's, float32 ``[vision]`` on the CPU; depth:
    layers of the tower for a stage inside it."""

    hidden: Tensor
    seeds: Callable[[], Tensor]
    annotation: Callable[[int], Tensor]
    cost: CostModel
    kv_heads: int
    depth: int | None = None


@uncompilable
def decide(bound: BoundStage, layer: int, flow: Flow, context: Context) -> list[Choice]:
    """One choice per sample, in batch order."""
    choices: list[Choice | None] = [None] * flow.batch
    for samples in _buckets(bound, flow, context):
        for sample, choice in zip(samples, _decide_bucket(bound, layer, flow, context, samples), strict=True):
            choices[sample] = choice
    return [choice for choice in choices if choice is not None]


def _segment_sizes(bound: BoundStage, flow: Flow, sample: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Surviving and original tokens of each group the stage ranks separately."""
    layout, alive = flow.layouts[sample], flow.alive[sample]
    if bound.stage.scope == "joint" or not layout.segments:
        return (len(alive),), (layout.vision,)
    original = tuple(len(segment) for segment in layout.segments)
    if len(alive) == layout.vision:
        return original, original
    return tuple(int(((alive >= s.start) & (alive < s.stop)).sum()) for s in layout.segments), original


def _target(bound: BoundStage, flow: Flow, context: Context, sample: int) -> Fraction | None:
    """The stage's budget for a sample: resolved when the stage first acts, the same at all its layers."""
    budget = bound.stage.budget
    if budget is None:
        return None
    key = (bound.index, sample)
    if key not in flow.targets:
        text = int(flow.prompt[sample].sum()) - flow.layouts[sample].vision
        in_bytes = budget.unit == "kv_bytes_ratio"
        held: Sequence[int | Fraction] = flow.entering[sample]
        if bound.is_kv or in_bytes:
            held = flow.cached[sample]
        programme = Programme(flow.layouts[sample].vision, text, tuple(held), bound.layers, bound.is_kv, context.cost)
        who = f"stages[{bound.index}] ({bound.stage.site}), {flow.noun} {sample}"
        if in_bytes and budget.value < 1 and flow.windowed is not None:
            layer, window = flow.windowed
            raise BudgetError(
                f"{who}: budget {budget} cannot be resolved: layer {layer} caches no more than its window of {window} "
                f"tokens, which the prompt exceeds, so what a token takes there depends on which ones stay; use "
                f"keep_ratio or mean_tokens_over_layers"
            )
        try:
            flow.targets[key] = resolve(budget, programme)
        except BudgetError as error:
            raise BudgetError(f"{who}: {error}") from None
    return flow.targets[key]


def _buckets(bound: BoundStage, flow: Flow, context: Context) -> list[list[int]]:
    groups: dict[Any, list[int]] = defaultdict(list)
    for sample in range(flow.batch):
        groups[_segment_sizes(bound, flow, sample), _target(bound, flow, context, sample)].append(sample)
    return list(groups.values())


def _signals(bound: BoundStage, layer: int, flow: Flow, context: Context, samples: list[int]) -> Signals:
    whole = len(samples) == flow.batch
    rows = slice(None) if whole else torch.tensor(samples)
    alive = torch.stack([flow.alive[sample] for sample in samples]).to(flow.device)

    def of_hidden() -> Tensor:
        hidden = context.hidden[rows]
        columns = flow.columns(samples).to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1])
        return hidden.gather(1, columns).to(flow.device)

    def of_images(read: Callable[[ImageRecord], Tensor], axis: int) -> Tensor:
        per_sample = []
        for sample in samples:
            images = torch.cat([read(record) for record in flow.records[sample]], dim=axis).to(flow.device)
            per_sample.append(images.index_select(axis, flow.alive[sample].to(flow.device)))
        return torch.stack(per_sample)

    def of_language(need: Need) -> Tensor:
        resolved = bound.resolved(need, layer)
        assert resolved.layer is not None
        captured = flow.captured[resolved][rows]
        columns = flow.columns(samples, flow.frames[resolved.layer]).to(captured.device)
        index = columns[:, None].expand(-1, captured.shape[1], -1)
        if need.kind != "attention":
            index = index[..., None].expand(-1, -1, -1, captured.shape[3])
        return captured.gather(2, index).to(flow.device)

    def of_text(query: str) -> Tensor:
        mask = flow.text_mask(query)[rows].to(context.hidden)
        mean = torch.einsum("btd,bt->bd", context.hidden[rows], mask / mask.sum(1, keepdim=True).clamp(min=1))
        return mean.to(flow.device)

    def coordinates() -> Tensor:
        return torch.stack([flow.layouts[s].coordinates()[flow.alive[s]] for s in samples]).to(flow.device)

    def source(need: Need) -> Callable[[], Tensor]:
        if need.kind in LANGUAGE:
            return lambda: of_language(need)
        if need.kind == "vision_attention":
            return lambda: of_images(lambda record: record.attention[need], 1)
        if need.kind == "text":
            return lambda: of_text(need.query or "last")
        if need.kind == "grid":
            return coordinates
        if need.kind == "sample_seed":
            return lambda: context.seeds()[samples]
        if need.kind == "annotation":
            return lambda: torch.stack([context.annotation(s)[flow.alive[s]] for s in samples]).to(flow.device)
        if bound.stage.site.kind == "vision":
            return lambda: of_images(_mean_unit, 0)
        return of_hidden

    sources = {need: source(need) for need in bound.needs}
    layouts = tuple(flow.layouts[sample] for sample in samples)
    return Signals(layouts, alive, sources, None if bound.stage.site.is_input else layer, context.kv_heads)


def _mean_unit(record: ImageRecord) -> Tensor:
    assert record.features is not None
    return record.features.float().mean(1)


def _decide_bucket(bound: BoundStage, layer: int, flow: Flow, context: Context, samples: list[int]) -> list[Choice]:
    stage = bound.stage
    signals = _signals(bound, layer, flow, context, samples)
    sizes, _ = _segment_sizes(bound, flow, samples[0])
    kv_heads = context.kv_heads if bound.is_kv else None
    if not signals.vision:
        empty = torch.ones(0, dtype=torch.bool, device=flow.device)
        return [Choice(empty, (0,)) for _ in samples]
    scores = None if stage.scorer is None else _scores(bound, signals, context.kv_heads)
    allocation = _allocation(bound, layer, flow, context, samples, signals)
    counts = _checked_counts(bound, allocation.counts, len(samples), sizes, kv_heads)
    per_head = kv_heads is not None and (
        counts.dim() == 3
        or (stage.scorer is not None and stage.scorer.granularity == "head")
        or stage.selector.feature_source in ("keys", "values")
    )
    heads = kv_heads if per_head and kv_heads is not None else 1
    if counts.dim() == 2:
        counts = counts[:, None].expand(-1, heads, -1)
    if stage.selector.count_is_exact and bool((counts == torch.tensor(sizes)).all()):
        keep = torch.ones(len(samples), heads, signals.vision, dtype=torch.bool, device=flow.device)
    else:
        keep = _choose(bound, flow, samples, signals, scores, counts, sizes)
    requested = counts.sum(-1).tolist()
    diagnostics = {name: values.tolist() for name, values in allocation.diagnostics.items()}
    return [
        Choice(
            keep[i] if per_head else keep[i, 0],
            tuple(requested[i]),
            {name: values[i] for name, values in diagnostics.items()},
        )
        for i in range(len(samples))
    ]


def _allocation(
    bound: BoundStage, layer: int, flow: Flow, context: Context, samples: list[int], signals: Signals
) -> Allocation:
    """How many tokens the samples of a bucket keep, as the stage's allocator says."""
    stage = bound.stage
    sizes, original = _segment_sizes(bound, flow, samples[0])
    target = _target(bound, flow, context, samples[0])
    if target is None and not stage.selector.needs_count and not stage.allocator.needs():
        return Allocation(torch.tensor(sizes).expand(len(samples), -1))
    depth = context.depth or len(context.cost.layers)
    request = AllocationRequest(
        target=target,
        sizes=sizes,
        original=original,
        layer=layer,
        layers=bound.layers,
        spans=Programme(0, 0, (0,) * depth, bound.layers, bound.is_kv, context.cost).spans,
        depth=depth,
        kv_heads=context.kv_heads if bound.is_kv else None,
        budget=stage.budget,
    )
    return stage.allocator.allocate(request, signals)


def _choose(
    bound: BoundStage,
    flow: Flow,
    samples: list[int],
    signals: Signals,
    scores: Tensor | None,
    counts: Tensor,
    sizes: tuple[int, ...],
) -> Tensor:
    """Select, segment by segment: bool ``[batch, head, vision]``. counts: ``[batch, head, segment]``."""
    heads = counts.shape[1]
    features = _features(bound, signals)
    protected = _protected(bound, flow, samples)
    parts, start = [], 0
    for segment, size in enumerate(sizes):
        window = slice(start, start + size)
        start += size
        parts.append(
            _select(
                bound,
                counts[..., segment].reshape(-1),
                size,
                None if scores is None else _rows(scores, heads, window),
                None if features is None else _rows(features, heads, window, trailing=1),
                protected[:, window].repeat_interleave(heads, 0),
            )
        )
    return torch.cat(parts, dim=-1).view(len(samples), heads, -1)


def _rows(tensor: Tensor, heads: int, window: slice, trailing: int = 0) -> Tensor:
    """``[batch, (kv_head,) vision, ...]`` as ``[row, vision, ...]``, cut to a segment."""
    if tensor.dim() == 2 + trailing:
        tensor = tensor[:, None].expand(-1, heads, *tensor.shape[1:])
    return tensor.flatten(0, 1)[:, window]


def _name(bound: BoundStage, kind: str) -> str:
    """A component as errors call it."""
    return f"stages[{bound.index}]: {kind} {build_name(kind, getattr(bound.stage, kind))!r}"


def _scores(bound: BoundStage, signals: Signals, kv_heads: int) -> Tensor:
    scorer = bound.stage.scorer
    assert scorer is not None
    scores = scorer.score(signals)
    shape: tuple[int, ...] = (signals.batch, signals.vision)
    axes = "[batch, vision]"
    if scorer.granularity == "head":
        shape, axes = (signals.batch, kv_heads, signals.vision), "[batch, kv_head, vision]"
    if tuple(scores.shape) != shape:
        name = _name(bound, "scorer")
        raise ComponentError(f"{name} returned shape {list(scores.shape)}, expected {axes} = {list(shape)}")
    scores = scores.float()
    if bool(scores.isnan().any()):
        bad = int(scores.isnan().sum())
        raise ComponentError(
            f"{_name(bound, 'scorer')} returned NaN for {bad} of {scores.numel()} scores; the likely cause is a "
            f"division by zero or a non-finite activation in the model (float16 overflow?)"
        )
    return scores.detach()


def _features(bound: BoundStage, signals: Signals) -> Tensor | None:
    """What the selector compares: ``[batch, vision, dim]``, or ``[batch, kv_head, vision, dim]`` at ``.kv`` sites."""
    source = bound.stage.selector.feature_source
    if source is None:
        return None
    features = signals.get(Need(source))
    if features.dim() == 4 and not bound.is_kv:
        return features.transpose(1, 2).flatten(2)
    return features


def _checked_counts(
    bound: BoundStage, counts: Tensor, batch: int, sizes: tuple[int, ...], kv_heads: int | None
) -> Tensor:
    shapes = [(batch, len(sizes))] + ([(batch, kv_heads, len(sizes))] if kv_heads else [])
    if tuple(counts.shape) not in shapes or counts.is_floating_point():
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise ComponentError(
            f"{_name(bound, 'allocator')} returned {counts.dtype} counts of shape {list(counts.shape)}, expected "
            f"integers {expected}"
        )
    counts = counts.cpu()
    if any(not 0 <= count <= sizes[i % len(sizes)] for i, count in enumerate(counts.flatten().tolist())):
        raise ComponentError(
            f"{_name(bound, 'allocator')} returned counts {counts.tolist()} outside 0 to the segment sizes "
            f"{list(sizes)}"
        )
    return counts


def _protected(bound: BoundStage, flow: Flow, samples: list[int]) -> Tensor:
    """bool ``[batch, vision]`` over the survivors."""
    rows = []
    for sample in samples:
        total = flow.layouts[sample].vision
        if bad := [token for token in bound.stage.protect if not -total <= token < total]:
            raise BudgetError(
                f"stages[{bound.index}]: protected token {bad[0]} does not exist; {flow.noun} {sample} has {total} "
                "vision tokens"
            )
        wanted = [token % total for token in bound.stage.protect]
        if not bound.is_kv and flow.ends_in_vision[sample]:
            wanted.append(total - 1)  # the next token is predicted from it
        rows.append(torch.isin(flow.alive[sample], torch.tensor(wanted, dtype=torch.int64)))
    return torch.stack(rows).to(flow.device)


def _select(
    bound: BoundStage, counts: Tensor, size: int, scores: Tensor | None, features: Tensor | None, protected: Tensor
) -> Tensor:
    """One segment: bool ``[row, vision]``, checked."""
    selector = bound.stage.selector
    needed = protected.sum(-1).cpu()
    if bool((needed > counts).any()):
        raise BudgetError(
            f"stages[{bound.index}]: {int(needed.max())} tokens are protected but the budget keeps "
            f"{int(counts.min())}; raise the budget or protect fewer tokens"
        )
    keep = selector.select(Candidates(counts, size, scores, features, protected))
    if keep.dtype != torch.bool or tuple(keep.shape) != tuple(protected.shape):
        raise ComponentError(
            f"{_name(bound, 'selector')} returned {keep.dtype} of shape {list(keep.shape)}, expected bool "
            f"[row, vision] = {list(protected.shape)}"
        )
    if bool((protected & ~keep).any()):
        raise ComponentError(f"{_name(bound, 'selector')} gave up a protected token")
    realised = keep.sum(-1).cpu()
    wrong = realised != counts if selector.count_is_exact else realised > counts
    if bool(wrong.any()):
        row = int(wrong.int().argmax())
        raise ComponentError(
            f"{_name(bound, 'selector')} kept {int(realised[row])} tokens where {int(counts[row])} were allocated"
        )
    return keep
