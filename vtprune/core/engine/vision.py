"""What the vision tower saw and made, kept until the language model runs.

The boundary is the model's ``get_image_features`` and ``get_video_features``: since transformers 5.2x `generate` calls
them before and outside the model's forward, on the un-expanded batch; earlier versions call them inside, on the
expanded one. Either way what they made waits here, image by image, and is handed to the samples whose placeholders it
fills.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_args

from torch import Tensor, nn

from vtprune.core.adapter import Modality, Parts, VisionCall, VisionInput
from vtprune.core.engine.attention import Tap
from vtprune.core.engine.cost import module_flops_per_token, vision_flops
from vtprune.core.engine.images import ImageRecord, note_attention
from vtprune.core.engine.replacing import replaced
from vtprune.core.engine.sharing import Sharing
from vtprune.core.engine.tower import received_rows, returned_features, tokens_of
from vtprune.core.engine.tower_stage import TowerCall, TowerStages
from vtprune.core.errors import UnsupportedModeError, UnsupportedModelError
from vtprune.core.signals import Need


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
            asked = _by_name(parameters, args, kwargs)
            as_tuple = asked.get("return_dict") is False
            if as_tuple:
                asked["return_dict"] = True
            sharing = self._sharing(modality, asked)
            call, seen = self._encoded(modality, original, asked if sharing is None else sharing.arguments)
            made = self._recorded(call, seen)
            if sharing is not None:
                call, made = sharing.call(call), sharing.records(made)
                seen.repeat(sharing.index)
            self._keep(call, made, seen)
            return call.output.to_tuple() if as_tuple else call.output

        return encode

    def _sharing(self, modality: Modality, asked: dict[str, Any]) -> Sharing | None:
        """How a call's repeated images are to be encoded once; None if that was not asked for or cannot be told."""
        unique = self.parts.adapter.unique
        if not self.share_images or unique is None:
            return None
        found = unique(self.parts.model, modality, asked)
        if found is None:
            self._say_not_shared(modality)
            return None
        return Sharing(asked, *found)

    def _encoded(
        self, modality: Modality, original: Callable[..., Any], arguments: dict[str, Any]
    ) -> tuple[VisionCall, _Open]:
        """Run the model's own method under watch."""
        self._open = seen = _Open({need: [] for need in self.needs})
        if self.stages is not None:
            seen.inside = self.stages.opened(modality, arguments, seen.attention)
        try:
            output = original(**arguments)
        finally:
            self._open = None
        return VisionCall(modality, arguments, output, returned_features(output)), seen

    def _keep(self, call: VisionCall, made: list[ImageRecord], seen: _Open) -> None:
        """Hold a call's images until the language model runs, and count what they cost."""
        self.records.extend(made)
        self._made.append((call.output, made))
        images = [record.image for record in made]
        full = self._count(call, images, seen.lengths)
        self.flops_full += full
        self.flops += full if seen.inside is None else self._count(call, images, seen.lengths, seen.inside)

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


def _by_name(parameters: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by parameter name, those of a ``**rest`` among them."""
    arguments: dict[str, Any] = {}
    for name, value in parameters.bind(*args, **kwargs).arguments.items():
        is_rest = parameters.parameters[name].kind is Parameter.VAR_KEYWORD
        arguments.update(value if is_rest else {name: value})
    return arguments
