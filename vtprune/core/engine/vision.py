"""What the vision tower saw and made, kept until the language model runs.

The boundary is the model's ``get_image_features`` and ``get_video_features``: since transformers 5.2x `generate` calls
them before and outside the model's forward, on the un-expanded batch; earlier versions call them inside, on the
expanded one. Either way what they made waits here, image by image, and is handed to the samples whose placeholders it
fills.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from inspect import Parameter, signature
from itertools import groupby
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from vtprune.core.adapter import Modality, Parts, VisionCall, VisionInput
from vtprune.core.engine.attention import Tap
from vtprune.core.engine.cost import module_flops_per_token, vision_flops
from vtprune.core.engine.deepstack import repeated
from vtprune.core.engine.replacing import replaced
from vtprune.core.engine.tower import mean_rows, received_rows, returned_features, tokens_of
from vtprune.core.errors import UnsupportedModeError, UnsupportedModelError
from vtprune.core.layout import SampleLayout, Segment
from vtprune.core.signals import Need

if TYPE_CHECKING:
    from vtprune.core.engine.tower_stage import TowerCall, TowerStages


@dataclass(frozen=True)
class TowerEvent:
    """What a stage inside the tower kept of one image: int64 CPU ``[vision]``, counted among the image's tokens."""

    stage: int
    layer: int
    requested: tuple[int, ...]
    kept: Tensor
    diagnostics: Mapping[str, float]


@dataclass
class ImageRecord:
    """One rectangle of vision tokens after the tower.

    features: float ``[vision, unit, dim]``, what the projector was given; attention: float32 ``[head, vision]``.
    separators: bool ``[vision]``, tokens that stand for no patch, where the family has a map that tells.
    events: what stages inside the tower did; sizes: float32 CPU ``[vision]``, how many tokens each one stands for, if
    they merged any.
    """

    image: VisionInput
    modality: Modality
    call: int
    features: Tensor | None = None
    attention: dict[Need, Tensor] = field(default_factory=dict)
    separators: Tensor | None = None
    events: list[TowerEvent] = field(default_factory=list)
    sizes: Tensor | None = None

    @property
    def alive(self) -> Tensor:
        """int64 CPU ``[vision]``: the tokens that left the tower."""
        return self.events[-1].kept if self.events else torch.arange(self.image.tokens)

    def digest(self) -> bytes:
        """A hash of the image's pixels."""
        if self.image.pixels is None:
            raise UnsupportedModeError(
                f"which pixels are an {self.modality}'s own is unknown for this model, so a component that reads "
                f"sample_seed (the scorer random does) would depend on the batch; use another scorer, or write an "
                f"adapter whose images() gives the pixels (docs/adapters.md)"
            )
        pixels = self.image.pixels.detach().contiguous().cpu()
        return hashlib.sha256(pixels.view(torch.uint8).numpy().tobytes()).digest()


@dataclass
class _Open:
    """A call under way: what its vision layers and its projector were given so far. lengths: of the sequences that
    entered the first vision layer."""

    attention: dict[Need, list[Tensor]]
    projected: list[Tensor] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    inside: TowerCall | None = None

    def repeat(self, index: Sequence[int]) -> None:
        """Count images as often as they were asked for: what a sample costs does not depend on who shares it."""
        if self.lengths:
            self.lengths = [self.lengths[image % len(self.lengths)] for image in index]
        if self.inside is not None:
            self.inside.repeat(index)


def note_attention(
    records: Sequence[ImageRecord], rows: Sequence[Tensor], attention: Mapping[Need, Sequence[Tensor]]
) -> None:
    """Give each image its tokens' attention. rows: as `Adapter.tower_rows` tells them; attention: of each need, what
    the calls of its vision layer were read to be. Crops of an image are read together, for their separators' sake."""
    for _, group in groupby(zip(records, rows, strict=True), key=lambda pair: pair[0].image.image):
        crops, maps = zip(*group, strict=True)
        for need, layers in attention.items():
            found = mean_rows(layers, torch.cat(maps)).split([len(own) for own in maps], dim=1)
            for record, own, its in zip(crops, maps, found, strict=True):
                record.separators, record.attention[need] = (own < 0).any(1), its


class VisionLog:
    """Collects what the tower makes. ``needs`` says which vision attention is wanted, ``features`` whether the
    projector's input is. ``share_images``: images that appear more than once in a call are encoded once."""

    def __init__(self, parts: Parts, needs: frozenset[Need], features: bool) -> None:
        self.parts, self.needs, self.wants_features = parts, needs, features
        self.share_images = False
        self.records: list[ImageRecord] = []
        self.generating: Callable[[], bool] = lambda: False
        self._made: list[tuple[Any, list[ImageRecord]]] = []
        self.stages: TowerStages | None = None
        self.stage_seconds: dict[int, float] = {}
        self.flops = self.flops_full = 0
        self._flops: dict[tuple[int, int, tuple[tuple[int, ...], ...]], int] = {}
        self._used = False
        self._said = False
        self._calls = 0
        self._open: _Open | None = None

    def clear(self) -> None:
        """Let go of every image."""
        self._forget()
        self._open = None

    # -- hooks ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Wrap the base model's encoding methods and hook the tower; everything is undone on exit."""
        base = self.parts.base
        with ExitStack() as stack:
            for modality in get_args(Modality):
                name = f"get_{modality}_features"
                if hasattr(base, name):
                    stack.enter_context(replaced(base, name, self._watched(modality, getattr(base, name))))
            if self.wants_features and self.parts.projector is not None:
                hook = self.parts.projector.register_forward_pre_hook(self._projector_starts, with_kwargs=True)
                stack.callback(hook.remove)
            for layer in (*self.parts.vision_layers[:1], *self.parts.video_layers[:1]):
                stack.callback(layer.register_forward_pre_hook(self._layer_starts, with_kwargs=True).remove)
            if self.stages is not None:
                stack.enter_context(self.stages.watching(lambda: None if self._open is None else self._open.inside))
            yield

    def generate_starts(self) -> None:
        """A new call to `generate`: what an earlier one left over, perhaps by an error, is not joined by what comes."""
        self._forget()

    def base_starts(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the multimodal base model: unless its images were encoded before, they come now.

        `generate` encodes a prompt's images itself and may hand on copies of what it got (one for each beam). In other
        calls only what was encoded under this run's eyes is known; anything else has no record, and is refused later.
        """
        encoded = [value for value in (kwargs.get("mm_encoder_outputs") or {}).values() if value is not None]
        if encoded and self.generating():
            return
        known = [records for output, records in self._made if any(output is value for value in encoded)]
        if not encoded or len(known) < len(encoded):
            self._forget()
        else:
            self.records, self._used = [record for records in known for record in records], False

    def _forget(self) -> None:
        self.records, self._made, self._used = [], [], False
        self.flops = self.flops_full = 0
        self.stage_seconds = {}

    def _watched(self, modality: Modality, original: Callable[..., Any]) -> Callable[..., Any]:
        parameters = signature(original)

        @wraps(original)
        def encode(*args: Any, **kwargs: Any) -> Any:
            if self._open is not None:  # a family's method for videos may call the one for images
                return original(*args, **kwargs)
            if self._used:
                self._forget()
            arguments: dict[str, Any] = {}
            for name, value in parameters.bind(*args, **kwargs).arguments.items():
                is_rest = parameters.parameters[name].kind is Parameter.VAR_KEYWORD
                arguments.update(value if is_rest else {name: value})
            index, unique = None, self.parts.adapter.unique
            asked = arguments
            as_tuple = arguments.get("return_dict") is False
            if as_tuple:
                asked = arguments = {**arguments, "return_dict": True}
            if self.share_images and unique is not None:
                found = unique(self.parts.model, modality, arguments)
                if found is None:
                    self._say_not_shared(modality)
                else:
                    arguments, index = found
            self._open = seen = _Open({need: [] for need in self.needs})
            if self.stages is not None:
                seen.inside = self.stages.opened(modality, arguments, seen.attention)
            try:
                output = original(**arguments)
            finally:
                self._open = None
            call = VisionCall(modality, arguments, output, returned_features(output))
            made = self._recorded(call, seen)
            if index is not None:
                features = [call.features[image] for image in index]
                made = [
                    replace(record, image=replace(record.image, image=place))
                    for place, image in enumerate(index)
                    for record in made
                    if record.image.image == image
                ]
                seen.repeat(index)
                raw = output.pooler_output  # the model's forward expects a tensor back where there was one
                output.pooler_output = raw[index] if isinstance(raw, Tensor) and raw.dim() == 3 else features
                repeated(output, [len(image) for image in call.features], index)
                _repeat_fields(output, len(call.features), index)
                call = VisionCall(modality, asked, output, tuple(features))
            self.records.extend(made)
            self._made.append((output, made))
            images = [record.image for record in made]
            full = self._count(call, images, seen.lengths)
            self.flops_full += full
            self.flops += full if seen.inside is None else self._count(call, images, seen.lengths, seen.inside)
            return output.to_tuple() if as_tuple else output

        return encode

    def _say_not_shared(self, modality: Modality) -> None:
        """share_images was asked for, and this call cannot do it; said once."""
        if not self._said:
            self._said = True
            warnings.warn(
                f"share_images: adapter {self.parts.adapter.name!r} cannot tell which {modality}s of this call are the "
                f"same, so each is encoded by itself",
                stacklevel=2,
            )

    def _recorded(self, call: VisionCall, seen: _Open) -> list[ImageRecord]:
        """What a call made, rectangle by rectangle."""
        parts, self._calls = self.parts, self._calls + 1
        adapter, model = parts.adapter, parts.model
        images = adapter.images(model, call)
        made, declared = sum(map(len, call.features)), sum(image.tokens for image in images)
        # Some append lone separators after the call: up to transformers 5.17 LLaVA-OneVision does so with videos.
        lone = sum(image.tokens for image in images if image.row_ends and image.grid and image.grid[2] == 1)
        if made not in (declared, declared - lone):
            raise UnsupportedModelError(
                f"{type(model).__name__} made {made} vision tokens of its {call.modality}s, but adapter "
                f"{adapter.name!r} accounts for {declared}; the installed transformers may lay them out differently"
            )
        if seen.inside is None:
            records = [ImageRecord(image, call.modality, self._calls) for image in images]
        else:
            records = seen.inside.finished(images, self._calls)
            for stage, seconds in seen.inside.seconds.items():
                self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + seconds
        if seen.attention and adapter.tower_rows is not None:
            note_attention(records, adapter.tower_rows(model, call, images), seen.attention)
        if seen.projected and adapter.projector_rows is not None:
            for record, rows in zip(records, adapter.projector_rows(model, call, images), strict=True):
                record.separators = (rows < 0).any(1)
                record.features = tokens_of(seen.projected, rows)
        return records

    def _count(
        self, call: VisionCall, images: Sequence[VisionInput], entered: list[int], inside: TowerCall | None = None
    ) -> int:
        """FLOPs of a call. entered: lengths of the sequences that entered the first vision layer; inside: what stages
        have left of them."""
        parts = self.parts
        windows = parts.adapter.windows
        lengths = [entered] * len(parts.vision_layers)
        if windows is not None:
            lengths = windows(parts.model, call, images)
        patches = sum(lengths[0]) if lengths else 0
        if inside is not None:
            lengths = inside.over(lengths)
        units = sum(image.tokens for image in images)
        shape = (units, patches, tuple(map(tuple, lengths)))
        if shape not in self._flops:
            apart = parts.per_token
            tower = vision_flops(parts.vision_tower, parts.vision_layers, patches, lengths, exclude=apart)
            self._flops[shape] = tower + sum(units * module_flops_per_token(module) for module in apart)
        return self._flops[shape]

    def _layer_starts(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._open is not None:
            hidden = args[0] if args else kwargs["hidden_states"]
            batch = 1 if hidden.dim() == 2 else hidden.shape[0]
            self._open.lengths += [hidden.shape[-2]] * batch

    def _projector_starts(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Merged features that the engine itself sends through the projector come outside any call."""
        if self._open is not None:
            self._open.projected.append(next(iter((*args, *kwargs.values()))))

    def tap(self, wanted: Sequence[Need], cls_row: int | None) -> Tap:
        """The attention tap of one vision layer."""

        def see(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
        ) -> None:
            if self._open is not None:
                for need in wanted:
                    found = received_rows(module, query, key, mask, kwargs, need.query or "received", cls_row)
                    if self._open.inside is None:
                        self._open.attention[need].append(found)
                    else:
                        self._open.inside.keys.collect(need, found)

        return see

    # -- handing over -----------------------------------------------------------------------------------------------

    def assign(self, modalities: Sequence[Sequence[str]]) -> list[list[ImageRecord]]:
        """The images of each sample.

        modalities: for each sample the modality of every vision token in prompt order. A batch that `generate` expanded
        (beams, several sequences) after the tower ran gets each sample's images once per copy.
        """
        self._used = True
        wanted = sum(map(len, modalities))
        made = sum(record.image.tokens for record in self.records)
        copies = wanted // made if made and wanted % made == 0 else 0
        if not copies or len(modalities) % copies:
            raise UnsupportedModeError(
                f"the prompt has {wanted} vision tokens, but the vision tower made {made} in its last pass; pass "
                f"pixel values in the same call as the prompt (features computed elsewhere carry no layout)"
            )
        queues: dict[str, list[ImageRecord]] = {kind: [] for kind in get_args(Modality)}
        for record in self.records:
            own = record.modality in self.parts.adapter.placeholders
            queues[record.modality if own else "image"].append(record)
        rows: list[list[ImageRecord]] = []
        for tokens in modalities[::copies]:
            row, at = [], 0
            while at < len(tokens):
                queue = queues[tokens[at]]
                if not queue or queue[0].image.tokens > len(tokens) - at:
                    left = f"the next {tokens[at]} has {queue[0].image.tokens}" if queue else f"no {tokens[at]} is left"
                    raise UnsupportedModeError(
                        f"sample {len(rows)} has {len(tokens) - at} more vision tokens, but {left}: the images of this "
                        f"batch do not end where its samples do"
                    )
                row.append(queue.pop(0))
                at += row[-1].image.tokens
            rows.append(row)
        return [row for row in rows for _ in range(copies)]


def _repeat_fields(output: Any, unique: int, index: Sequence[int]) -> None:
    """Give back what stands beside the features for each image, once for every time it was asked for."""
    for name in [name for name in output if name not in ("pooler_output", "deepstack_features")]:
        value = output[name]
        if isinstance(value, Tensor) and value.dim() > 2 and len(value) == unique:
            setattr(output, name, value[list(index)])


def layout_of(positions: Tensor, records: Sequence[ImageRecord]) -> SampleLayout:
    """The layout of one sample from its vision positions and its images."""
    segments: list[Segment] = []
    start, number, latest = 0, -1, None
    for index, record in enumerate(records):
        image, stop = record.image, start + record.image.tokens
        if (record.call, image.image) != latest:
            number, latest = number + 1, (record.call, image.image)
        segments.append(Segment(index, start, stop, image.grid, record.modality, number, image.row_ends))
        start = stop
    return SampleLayout(positions, tuple(segments))
