"""Carrying out what a stage decided: on hidden states, or on a cache layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from vtprune.core.adapter import Parts
from vtprune.core.component import Reducer
from vtprune.core.engine.decide import Choice, Context, decide
from vtprune.core.engine.flow import Flow
from vtprune.core.engine.images import ImageRecord
from vtprune.core.engine.plan import BoundStage
from vtprune.core.engine.recorder import Recorder
from vtprune.core.engine.steps import Step
from vtprune.core.errors import UnsupportedModeError


@dataclass(frozen=True)
class Site:
    """Where a stage acts: the layer, the forward, and what deciding needs."""

    bound: BoundStage
    layer: int
    flow: Flow
    context: Context
    parts: Parts
    recorder: Recorder


def _kept(site: Site, choices: list[Choice]) -> list[tuple[Tensor, ...]]:
    """Per sample the kept tokens, counted in the prompt (one tensor, or one per KV head); noted in the report."""
    alive = site.flow.alive
    kept = []
    for sample, choice in enumerate(choices):
        keep = choice.keep.cpu()
        rows = keep if keep.dim() == 2 else keep[None]
        if bool(keep.all()):
            kept.append((alive[sample],) * len(rows))
        else:
            kept.append(tuple(alive[sample][row] for row in rows))
    site.recorder.stage(site.bound, site.layer, choices, kept)
    return kept


def drop_hidden(site: Site, hidden: Tensor, rotary: Tensor | None, shift: Tensor | None) -> tuple[Tensor, list[Step]]:
    """Remove tokens from the hidden states ``[batch, token, dim]`` entering a layer.

    rotary: the rotary positions of this forward; shift: by how much the layer's earlier tokens run behind.
    Returns the compact hidden states and the steps that made them, to be repeated on a replay.
    """
    flow, stage = site.flow, site.bound.stage
    choices = decide(site.bound, site.layer, flow, site.context)
    kept = [rows[0] for rows in _kept(site, choices)]
    if all(len(kept[sample]) == len(flow.alive[sample]) for sample in range(flow.batch)):
        return hidden, []
    assert stage.reducer is not None
    steps: list[Step] = []
    merge = _merge_step(site, stage.reducer, choices)
    transformed = hidden
    if merge is not None:
        assert flow.sizes is not None
        steps.append(lambda states: merge(states, None))
        transformed = merge(hidden, flow.sizes)
    steps.append(removed(flow, site.layer, kept, rotary if stage.positions == "reindex" else None, shift))
    return steps[-1](transformed), steps


def removed(flow: Flow, layer: int, kept: list[Tensor], rotary: Tensor | None, shift: Tensor | None) -> Step:
    """Take tokens out of the flow on entering a layer; the step does so on hidden states ``[batch, token, dim]``.

    kept: per sample int64 CPU, the vision tokens that stay, counted in the prompt. rotary: given to re-index them.
    """
    columns = flow.drop(kept)
    if rotary is not None:
        flow.reindex(rotary, shift)
    for sample, tokens in enumerate(kept):
        flow.holds(sample, layer, len(tokens))
    return lambda states: states.gather(1, columns.to(states.device)[..., None].expand(-1, -1, states.shape[-1]))


@dataclass(frozen=True)
class _Merging:
    """One sample's merge: where its vision tokens stand, which of them stay, how many tokens each stands for, and, at
    ``vision.output``, the tower's features of its images and which of them are alive. Holds nothing of the forward and
    does all its arithmetic when called, so that gradient checkpointing can repeat it."""

    sample: int
    columns: Tensor
    keep: Tensor
    sizes: Tensor
    images: tuple[Tensor, ...] | None
    alive: Tensor


def _merge_step(
    site: Site, reducer: Reducer, choices: list[Choice]
) -> Callable[[Tensor, Tensor | None], Tensor] | None:
    """The reducer's edit of the kept tokens: ``(hidden states, sizes to fill in or None) -> hidden states``."""
    if not reducer.merges:
        return None
    flow, parts = site.flow, site.parts
    if flow.sizes is None:
        flow.sizes = torch.ones(flow.batch, flow.width, device=flow.device)
    merges = []
    for sample, choice in enumerate(choices):
        if len(flow.alive[sample]) and not bool(choice.keep.all()):
            at = flow.columns([sample])[0]
            images = None
            alive = flow.alive[sample].to(flow.device)
            keep, sizes = choice.keep, flow.sizes[sample, at]
            if site.bound.stage.site.kind == "vision":
                images = tuple(record.features for record in flow.records[sample] if record.features is not None)
                patches = ~_separators(flow.records[sample])[flow.alive[sample]].to(flow.device)
                # A separator stands for no patch: there is nothing of it to merge, nor anything to merge into it.
                at, keep, sizes, alive = at[patches], keep[patches], sizes[patches], alive[patches]
                if bool(keep.all()) or not bool(keep.any()):
                    continue
            merges.append(_Merging(sample, at, keep, sizes, images, alive))

    def merged(hidden: Tensor, sizes: Tensor | None) -> Tensor:
        rows = list(hidden.unbind(0))
        for merge in merges:
            tower, columns = None, merge.columns.to(hidden.device)
            at = merge.columns[merge.keep]
            if merge.images is not None:
                tower = torch.cat(merge.images)
                tower = tower[merge.alive.to(tower.device)]
            features = rows[merge.sample][columns] if tower is None else tower.flatten(1)
            keep = merge.keep.to(features.device)
            result = reducer.merge(features[None], keep[None], merge.sizes.to(features.device)[None])
            if result is None:
                continue
            made = result.features[0, keep]
            if tower is not None:
                assert parts.adapter.project is not None
                made = parts.adapter.project(parts.model, made.view(-1, *tower.shape[1:]).to(tower.dtype))
            rows[merge.sample] = rows[merge.sample].index_copy(0, at.to(hidden.device), made.to(hidden))
            if sizes is not None:
                sizes[merge.sample, at] = result.sizes[0, keep].to(sizes.device)
        return torch.stack(rows)

    return merged


def _separators(records: Sequence[ImageRecord]) -> Tensor:
    """bool ``[vision]`` on the CPU: which of a sample's vision tokens stand for no patch."""
    rows = [
        torch.zeros(record.image.tokens, dtype=torch.bool) if record.separators is None else record.separators.cpu()
        for record in records
    ]
    return torch.cat(rows)


@dataclass(frozen=True)
class Eviction:
    """What a layer's cache gives up: for the new tokens, bool ``[batch, kv_head, token]``, which of them stay."""

    keep: Tensor

    def over(self, slots: int) -> Tensor:
        """bool ``[batch, kv_head, slot]`` over the last ``slots`` keys.

        What was cached earlier stays; a sliding layer has already forgotten what lies before its window.
        """
        earlier = max(slots - self.keep.shape[-1], 0)
        return torch.nn.functional.pad(self.keep, (earlier, 0), value=True)[..., -slots:]


def plan_eviction(site: Site, flash: bool) -> Eviction | None:
    """Decide what a layer's cache keeps, for each sample and KV head its own; None if that is everything."""
    flow = site.flow
    choices = decide(site.bound, site.layer, flow, site.context)
    kept = _kept(site, choices)
    for sample, rows in enumerate(kept):
        flow.cached[sample][site.layer] = Fraction(sum(map(len, rows)), len(rows))
    if all(len(row) == len(flow.alive[sample]) for sample, rows in enumerate(kept) for row in rows):
        return None
    if flash and any(len({len(row) for row in rows}) > 1 for rows in kept):
        raise UnsupportedModeError(
            f"stages[{site.bound.index}]: KV heads of layer {site.layer} keep different numbers of tokens, which flash "
            f"attention's padding mask cannot express; load the model with attn_implementation='sdpa'"
        )
    keep_new = flow.gather(flow.real)[:, None].repeat(1, site.context.kv_heads, 1)
    for sample, choice in enumerate(choices):
        keep_new[sample, :, flow.columns([sample])[0]] = choice.keep
    return Eviction(keep_new)
