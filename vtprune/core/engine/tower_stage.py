"""Stages inside the vision tower: patches that leave between two vision layers.

The forward of every vision layer from the first such stage on is wrapped. What enters and leaves it keeps its usual
length, with zeros for patches that are gone, so that nothing around the layers notices; the layer itself computes only
what is left. Images that keep equally many patches run together and no mask is needed: what an image becomes does not
depend on the others of its call, whatever the kernel. Samples are not known yet, so each image (or crop, or video)
decides for itself, as if it were a sample.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.core.adapter import Modality, Parts, VisionCall, VisionInput
from vtprune.core.component import Reducer
from vtprune.core.engine.cost import CostModel
from vtprune.core.engine.decide import Context, decide
from vtprune.core.engine.flow import Flow
from vtprune.core.engine.images import ImageRecord, TowerEvent, layout_of, note_attention, seed_of
from vtprune.core.engine.plan import BoundStage
from vtprune.core.engine.replacing import replaced
from vtprune.core.engine.shorter import Buckets, Keys, buckets_of, shorter
from vtprune.core.engine.steps import Step, after
from vtprune.core.errors import UnsupportedModelError
from vtprune.core.signals import Need

REPLAYS = 1024
"""How many layer calls gradient checkpointing may repeat; older ones are forgotten."""


class TowerStages:
    """The stages that act inside the vision tower, in recipe order. kv_heads: of the language model, for components
    that ask."""

    def __init__(self, parts: Parts, stages: Sequence[BoundStage], kv_heads: int) -> None:
        self.parts, self.stages, self.kv_heads = parts, stages, kv_heads
        self._replay: dict[tuple[int, int], tuple[list[Step], Buckets | None]] = {}

    @property
    def first(self) -> int:
        """The first vision layer at which a stage acts."""
        return min(bound.layers[0] for bound in self.stages)

    @contextmanager
    def watching(self, current: Callable[[], TowerCall | None]) -> Iterator[None]:
        """Wrap the vision layers; everything is undone on exit. ``current`` gives the call under way."""
        with ExitStack() as stack:
            for layers in (self.parts.vision_layers, self.parts.video_layers):
                for layer, module in list(enumerate(layers))[self.first :]:
                    stack.enter_context(replaced(module, "forward", self._wrapped(layer, module, current)))
            stack.callback(self._replay.clear)
            yield

    def opened(
        self, modality: Modality, arguments: Mapping[str, Any], attention: dict[Need, list[Tensor]]
    ) -> TowerCall:
        """A call of the tower begins; ``attention`` will be what is read in it."""
        return TowerCall(self, VisionCall(modality, arguments, None, ()), attention)

    def _wrapped(self, layer: int, module: nn.Module, current: Callable[[], TowerCall | None]) -> Callable[..., Any]:
        original: Callable[..., Any] = module.forward

        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            call, place = current(), (layer, hidden_states.untyped_storage().data_ptr())
            if call is None:
                # Gradient checkpointing up to transformers 5.17 repeats a layer's wrapper during the backward pass, on
                # the tensor (or its storage) that the layer was given.
                steps, buckets = self._replay.get(place, ([], None))
                return shorter(original, after(hidden_states, steps), buckets, args, kwargs)
            entering, steps, buckets = call.enter(layer, hidden_states)
            if module.training and getattr(module, "gradient_checkpointing", False):
                self._replay[place] = (steps, buckets)
                if len(self._replay) > REPLAYS:
                    del self._replay[next(iter(self._replay))]
            output = shorter(original, entering, buckets, args, kwargs, call.keys)
            call.keys.spread(hidden_states.shape[0], hidden_states.shape[1])
            return output

        return forward


@dataclass
class _Run:
    """The tower at work on one batch ``[image, patch, dim]``; ``start`` counts patches of the call before it.

    numbers: which rectangles of the call it holds; images: for each row of the batch the image it shows.
    rows: int64 CPU ``[vision, unit]`` for each rectangle, its patches in the flattened batch, -1 for separators; sizes:
    float32 ``[vision]`` on the CPU, how many tokens each one stands for.
    gone: bool CPU ``[image, patch]``.
    """

    start: int
    numbers: list[int]
    images: list[int]
    rows: list[Tensor]
    flow: Flow
    gone: Tensor
    sizes: list[Tensor]
    buckets: Buckets | None = None
    merged: bool = False


@dataclass
class TowerCall:
    """One call of `get_image_features` as the stages see it.

    attention: what the taps have collected so far. widths: for each wrapped layer and row of its batch, the image of
    the call and how many of its patches were computed. seconds: by stage.
    """

    owner: TowerStages
    call: VisionCall
    attention: dict[Need, list[Tensor]]
    widths: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    records: list[ImageRecord] = field(default_factory=list)
    keys: Keys = field(init=False)
    _rows: list[Tensor] = field(default_factory=list)
    _run: _Run | None = None

    def __post_init__(self) -> None:
        self.keys = Keys(self.attention)

    @property
    def parts(self) -> Parts:
        """The model's modules."""
        return self.owner.parts

    def enter(self, layer: int, hidden: Tensor) -> tuple[Tensor, list[Step], Buckets | None]:
        """Let the stages of a layer act on the hidden states ``[image, patch, dim]`` that enter it. Returns those that
        the layer is to be given, the steps that made them, to be repeated on a replay, and what is left of them."""
        if hidden.dim() != 3:
            raise UnsupportedModelError(
                f"vision layer {layer} was given hidden states of shape {list(hidden.shape)}; expected [image, patch, "
                f"dim]. Adapter {self.parts.adapter.name!r} should not declare tower_depth; use vision.output"
            )
        if layer == self.owner.first:
            self._run = self._opened(hidden)
        run = self._run
        assert run is not None
        if run.gone.shape != hidden.shape[:2]:
            raise UnsupportedModelError(
                f"vision layer {layer} was given {list(hidden.shape[:2])} [image, patch], the layers before it "
                f"{list(run.gone.shape)}; something else changes the sequence inside the tower"
            )
        steps: list[Step] = []
        for bound in self.owner.stages:
            if layer in bound.layers:
                started = _now(hidden)
                for step in self._act(run, bound, layer, hidden):
                    hidden = step(hidden)
                    steps.append(step)
                for record, sizes in zip(run.flow.records, run.sizes, strict=True):
                    record[0].sizes = sizes if run.merged else None
                self.seconds[bound.index] += _now(hidden) - started
        self.widths[layer] += zip(run.images, (~run.gone).sum(1).tolist(), strict=True)
        return hidden, steps, run.buckets

    def over(self, lengths: Sequence[list[int]]) -> list[list[int]]:
        """The lengths of the sequences that each vision layer really computed; ``lengths``: without pruning."""
        real = {layer: [width for _, width in widths] for layer, widths in self.widths.items()}
        return [real.get(layer, full) for layer, full in enumerate(lengths)]

    def repeat(self, index: Sequence[int]) -> None:
        """Count images as often as they were asked for."""
        for layer, widths in self.widths.items():
            self.widths[layer] = [width for image in index for width in widths if width[0] == image]

    def finished(self, images: Sequence[VisionInput], call: int) -> list[ImageRecord]:
        """The records of the call's images, now that it has returned."""
        if [image.tokens for image in images] != [record.image.tokens for record in self.records]:
            raise UnsupportedModelError(
                f"adapter {self.parts.adapter.name!r} lays the images of this call out differently before and after "
                f"the vision tower has run, or the tower did not run; it should not declare tower_depth. Use "
                f"vision.output"
            )
        if idle := [number for number, record in enumerate(self.records) if not record.events]:
            raise UnsupportedModelError(
                f"rectangle {idle[0]} of this call never passed vision layer {self.owner.first}; use vision.output"
            )
        for record, image in zip(self.records, images, strict=True):
            record.image, record.call = image, call
        return self.records

    def _opened(self, hidden: Tensor) -> _Run:
        adapter, model = self.parts.adapter, self.parts.model
        if not self.records:
            assert adapter.tower_rows is not None
            images = adapter.images(model, self.call)
            self.records = [ImageRecord(image, self.call.modality, 0) for image in images]
            for rows in adapter.tower_rows(model, self.call, images):
                repeats = bool((rows == rows[:, :1]).all())  # some name a patch several times, to match other inputs
                self._rows.append((rows[:, :1] if repeats else rows).cpu())
        start = 0 if self._run is None else self._run.start + self._run.gone.numel()
        stop = start + hidden.shape[0] * hidden.shape[1]
        numbers = self._numbers(start, stop)
        for number in numbers:
            rows = self._rows[number][self._rows[number] >= 0]
            if not len(rows):
                continue
            if int(rows.min()) < start or int(rows.max()) >= stop or len(rows.unique()) != len(rows):
                raise UnsupportedModelError(
                    f"adapter {adapter.name!r} maps rectangle {number} of this call to patches of several runs of the "
                    f"tower, or one patch to several tokens; it should not declare tower_depth. Use vision.output"
                )
        local = [torch.where(self._rows[number] < 0, -1, self._rows[number] - start) for number in numbers]
        records = [self.records[number] for number in numbers]
        flow = _flow(records, hidden.device, len(self.parts.vision_layers))
        gone = torch.zeros(hidden.shape[:2], dtype=torch.bool)
        shown = [-1] * len(gone)
        for record, own in zip(records, local, strict=True):
            for row in (own[own >= 0] // hidden.shape[1]).unique().tolist():
                shown[row] = record.image.image
        for row, image in enumerate(shown):  # a tile of which no patch becomes a token is its neighbour's
            shown[row] = max(image, 0 if row == 0 else shown[row - 1])
        return _Run(start, numbers, shown, local, flow, gone, [torch.ones(len(own)) for own in local])

    def _numbers(self, start: int, stop: int) -> list[int]:
        """The rectangles with patches in that range; those without any patch belong to the one before them."""
        found, latest = [], False
        for number, rows in enumerate(self._rows):
            if bool((rows >= 0).any()):
                latest = bool(((rows >= start) & (rows < stop)).any())
            if latest:
                found.append(number)
        return found

    def _act(self, run: _Run, bound: BoundStage, layer: int, hidden: Tensor) -> list[Step]:
        flow = run.flow
        wanted = {need: self.attention[need] for need in bound.needs if need.kind == "vision_attention"}
        if wanted:
            rows = [self._rows[number] for number in run.numbers]
            note_attention([record for (record,) in flow.records], rows, wanted)
        choices = decide(bound, layer, flow, self._context(run, bound, hidden))
        keeps = [choice.keep.cpu() for choice in choices]
        assert bound.stage.reducer is not None
        merge = self._merge(run, bound.stage.reducer, keeps)
        for image, (choice, keep) in enumerate(zip(choices, keeps, strict=True)):
            lost = run.rows[image][flow.alive[image][~keep]]
            run.gone.view(-1)[lost[lost >= 0]] = True
            kept = flow.alive[image] = flow.alive[image][keep]
            event = TowerEvent(bound.index, layer, choice.requested, kept, choice.diagnostics)
            flow.records[image][0].events.append(event)
        run.buckets = buckets_of(run.gone, hidden.device)
        return [] if merge is None else [merge]

    def _context(self, run: _Run, bound: BoundStage, hidden: Tensor) -> Context:
        def seeds() -> Tensor:
            records = (record for (record,) in run.flow.records)
            return torch.tensor([seed_of(record.digest()) for record in records])

        features = hidden.detach()
        if any(need.kind == "features" for need in bound.needs):
            features = _features(features, run.rows)
        depth = len(self.parts.vision_layers)
        return Context(features, seeds, _no_annotation, CostModel((), 0), self.owner.kv_heads, depth)

    def _merge(self, run: _Run, reducer: Reducer, keeps: Sequence[Tensor]) -> Step | None:
        """The reducer's edit of the kept patches, to be repeated on a replay; notes the new sizes."""
        if not reducer.merges:
            return None
        merges = []
        for image, keep in enumerate(keeps):
            alive = run.flow.alive[image]
            rows = run.rows[image][alive]
            patches = (rows >= 0).all(1)  # a separator has nothing to give or to receive
            if bool(keep[patches].any()) and not bool(keep[patches].all()):
                merges.append((image, rows[patches], keep[patches], alive[patches], run.sizes[image][alive[patches]]))

        if not merges:
            return None

        def step(hidden: Tensor) -> Tensor:
            flat = hidden.flatten(0, 1)
            for image, rows, keep, alive, sizes in merges:
                given = flat[rows.to(flat.device)]
                kept = keep.to(flat.device)
                result = reducer.merge(given.flatten(1)[None], kept[None], sizes.to(flat.device)[None])
                if result is None:
                    continue
                made = result.features[0, kept].view(-1, *given.shape[1:])
                flat = flat.index_copy(0, rows[keep].flatten().to(flat.device), made.flatten(0, 1).to(flat.dtype))
                grown = run.sizes[image].clone()
                grown[alive[keep]] = result.sizes[0, kept].cpu()
                run.sizes[image], run.merged = grown, True
            return flat.view_as(hidden)

        return step


def _flow(records: Sequence[ImageRecord], device: torch.device, depth: int) -> Flow:
    """Images as if each were a sample that has no text."""
    counts = torch.tensor([record.image.tokens for record in records])
    length = int(counts.max()) if len(counts) else 0
    prompt = (torch.arange(length) < counts[:, None]).to(device)
    flow = Flow(len(records), length, 0, device, prompt, prompt, prompt, noun="image")
    layouts = tuple(layout_of(torch.arange(record.image.tokens), [record]) for record in records)
    flow.start(layouts, [[record] for record in records], depth)
    flow.ends_in_vision = [False] * len(records)
    return flow


def _features(hidden: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """float32 ``[image, vision, dim]``: the mean over the patches of each token; zeros for separators and beyond the
    last token of an image."""
    flat = hidden.flatten(0, 1)
    made = []
    for own in rows:
        tokens = flat[own.clamp(min=0).to(flat.device)].float().mean(1)
        made.append(tokens * (own >= 0).all(1, keepdim=True).to(tokens))
    return torch.nn.utils.rnn.pad_sequence(made, batch_first=True)


def _no_annotation(sample: int) -> Tensor:
    raise AssertionError("binding refuses annotations inside the tower")


def _now(tensor: Tensor) -> float:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()
