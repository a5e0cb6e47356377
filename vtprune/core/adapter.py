"""Adapters: a declarative map from one model family's modules to canonical sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from vtprune.core.signals import KINDS

Modality = Literal["image", "video"]


@dataclass(frozen=True)
class VisionCall:
    """One call of the model's ``get_image_features`` or ``get_video_features``, after it returned.

    arguments: by parameter name, as the model got them; output: what it returned.
    features: that, as one float ``[vision, dim]`` for each image or video (or each tile, or each sample: as the family
        groups them), in the order of the placeholders.
    """

    modality: Modality
    arguments: Mapping[str, Any]
    output: Any
    features: tuple[Tensor, ...]


@dataclass(frozen=True)
class VisionInput:
    """One rectangle of vision tokens: an image, a crop of one, or a video.

    tokens: how many language-model tokens it becomes; grid: their (t, h, w), or None if they form no rectangle.
    pixels: the tensor the tower reads for it (any shape); only its content is used, to seed random baselines. None if
        it is unknown which pixels are its own; components that need ``sample_seed`` are then refused.
    image: which image or video of the call it belongs to, where one has several crops.
    row_ends: whether the last column of the grid is made of separators, tokens that stand for no patch.
    """

    tokens: int
    grid: tuple[int, int, int] | None
    pixels: Tensor | None
    image: int = 0
    row_ends: bool = False


Rows = Callable[[nn.Module, VisionCall, Sequence[VisionInput]], list[Tensor]]


@dataclass(frozen=True)
class Adapter:
    """How one family is built. Paths are dotted attribute paths; a None says that the family has no such thing.

    architectures: model class names; tower_types: model types of the vision configs it is for, where a class takes
        several kinds of tower (none: any that no other adapter of the class names).
    language_model, vision_tower, projector: paths under ``model.base_model``.
    vision_layers: path of the layer list under the vision tower; vision_attention: of the attention inside a layer.
    placeholders: config attribute holding a placeholder token's id, for each modality; videos that have none of their
        own use that of images (GLM-V).
    images: the rectangles of vision tokens of a call, in the order of the placeholders.
    tower_rows: for each of them int64 ``[vision, unit]``: which ``unit`` rows of a vision layer's sequence make up a
        token. The sequence is that of all kernel calls of the layer one after the other, ``(call batch token)``. Rows
        of -1 mark a separator. None where a token is made of all patches (resamplers).
    projector_rows: the same for the projector's input, all its calls flattened to ``[row, dim]``.
    tower_depth: how many of the vision layers lead to the features that the model uses; later ones are computed but
        nothing reads them. Given if patches can leave between vision layers: the layers run on ``[image, patch, dim]``
        with full attention, no two tokens share a patch, and ``images`` and ``tower_rows`` need no output of the call.
    project: the projector on some tokens, ``(model, [vision, unit, dim]) -> [vision, dim]``.
    cls_row: index of the CLS query row in the tower, or None when this model has none.
    mergers: paths of modules that run once per language-model token beside the projector (DeepStack's projectors, a
        downsampling convolution), for counting FLOPs.
    windows: attention window lengths per vision layer for a call, for counting FLOPs; None: whatever each layer was
        given attends to itself.
    unique: a call's arguments without images that appear twice, and int64 ``[image]`` that brings them back,
        ``(model, modality, arguments) -> (arguments, index)``, or None for a call in which it cannot be told; None if
        the family cannot.
    video_tower: path of a second tower, of the same build and config, for the videos of families that have one.
    unsupported: why models of this family cannot be pruned at all; binding refuses them with it.
    recognised: whether it was made by `vtprune.core.recognise` from a model's structure; the engine then checks that
        the placeholders were filled.
    tiny: ``"module:function"``, what makes a tiny model of the family for `vtprune.testing.check_adapter` and ``vtprune
        check``; the function takes ``"sdpa"`` or ``"eager"``.
    """

    name: str
    summary: str
    architectures: tuple[str, ...]
    language_model: str
    vision_tower: str
    placeholders: Mapping[Modality, str]
    images: Callable[[nn.Module, VisionCall], list[VisionInput]]
    tower_types: tuple[str, ...] = ()
    vision_layers: str | None = None
    vision_attention: str | None = None
    projector: str | None = None
    tower_rows: Rows | None = None
    projector_rows: Rows | None = None
    tower_depth: Callable[[nn.Module], int] | None = None
    project: Callable[[nn.Module, Tensor], Tensor] | None = None
    cls_row: Callable[[nn.Module], int | None] = lambda model: None
    mergers: tuple[str, ...] = ()
    windows: Callable[[nn.Module, VisionCall, Sequence[VisionInput]], list[list[int]]] | None = None
    unique: Callable[[nn.Module, Modality, Mapping[str, Any]], tuple[dict[str, Any], list[int]] | None] | None = None
    provides: frozenset[str] = frozenset(KINDS)
    video_tower: str | None = None
    unsupported: str | None = None
    recognised: bool = False
    tiny: str | None = None


@dataclass(frozen=True)
class Parts:
    """The modules of one model, found through its adapter. attention: of each decoder layer; None where it has none."""

    adapter: Adapter
    model: nn.Module
    base: nn.Module
    language_model: Any
    layers: tuple[nn.Module, ...]
    attention: tuple[nn.Module | None, ...]
    vision_tower: nn.Module
    vision_layers: tuple[nn.Module, ...]
    vision_attention: tuple[nn.Module, ...]
    projector: nn.Module | None
    head: nn.Module | None
    mergers: tuple[nn.Module, ...] = ()
    video_layers: tuple[nn.Module, ...] = ()
    video_attention: tuple[nn.Module, ...] = ()

    @property
    def per_token(self) -> tuple[nn.Module, ...]:
        """Parts of the vision side that run once per language-model token, not once per patch."""
        return (*(() if self.projector is None else (self.projector,)), *self.mergers)

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def placeholder_ids(self) -> dict[Modality, int]:
        """Placeholder token id of each modality this model has."""
        config: Any = self.model.config
        ids = {kind: getattr(config, name, None) for kind, name in self.adapter.placeholders.items()}
        return {kind: token for kind, token in ids.items() if token is not None}
