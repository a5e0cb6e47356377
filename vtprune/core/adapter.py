"""Adapters: a declarative map from one model family's modules to canonical sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from torch import Tensor, nn

from vtprune.core.errors import UnsupportedModelError, did_you_mean
from vtprune.core.plugins import registry
from vtprune.core.signals import KINDS

Modality = Literal["image", "video"]


@dataclass(frozen=True)
class VisionInput:
    """One image or video as the vision tower receives it.

    tokens: how many language-model tokens it becomes; grid: their (t, h, w), or None if they form no rectangle.
    pixels: the tensor the tower reads for it (any shape); only its content is used, to seed random baselines.
    """

    tokens: int
    grid: tuple[int, int, int] | None
    pixels: Tensor


@dataclass(frozen=True)
class Adapter:
    """How one family is built. Paths are dotted attribute paths.

    architectures: model class names. language_model, vision_tower, projector: paths under ``model.base_model``.
    vision_layers: path of the layer list under the vision tower; vision_attention: of the attention inside a layer.
    placeholders: config attribute holding a placeholder token's id, for each modality.
    inputs: reads the images from the tower's call, ``(model, args, kwargs) -> [VisionInput, ...]``.
    features: the projector's input as one float ``[vision, unit, dim]`` per image in language-model token order;
        ``unit`` patches make up one token.
    project: the inverse direction: ``(model, [vision, unit, dim]) -> [vision, dim]``, the projector on some tokens.
    attention: attention captured in a vision layer, one float ``[batch, head, key]`` per kernel call, as one float32
        ``[head, vision]`` per image in language-model token order.
    cls_row: index of the CLS query row in the tower, or None when this model has none.
    windows: attention window lengths per vision layer for the given images, ``(model, inputs) -> [[int]]``.
    """

    name: str
    summary: str
    architectures: tuple[str, ...]
    language_model: str
    vision_tower: str
    vision_layers: str
    vision_attention: str
    projector: str
    placeholders: Mapping[Modality, str]
    inputs: Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], list[VisionInput]]
    features: Callable[[nn.Module, Tensor, Sequence[VisionInput]], list[Tensor]]
    project: Callable[[nn.Module, Tensor], Tensor]
    attention: Callable[[nn.Module, Sequence[Tensor], Sequence[VisionInput]], list[Tensor]]
    cls_row: Callable[[nn.Module], int | None]
    windows: Callable[[nn.Module, Sequence[VisionInput]], list[list[int]]]
    provides: frozenset[str] = frozenset(KINDS)


@dataclass(frozen=True)
class Parts:
    """The modules of one model, found through its adapter."""

    adapter: Adapter
    model: nn.Module
    base: nn.Module
    language_model: Any
    layers: tuple[nn.Module, ...]
    attention: tuple[nn.Module, ...]
    vision_tower: nn.Module
    vision_layers: tuple[nn.Module, ...]
    vision_attention: tuple[nn.Module, ...]
    projector: nn.Module
    head: nn.Module | None

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def heads(self) -> tuple[int, int]:
        """Number of query heads and of KV heads."""
        config = self.language_model.config
        return config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads

    @property
    def placeholder_ids(self) -> dict[Modality, int]:
        """Placeholder token id of each modality this model has."""
        config: Any = self.model.config
        ids = {kind: getattr(config, name, None) for kind, name in self.adapter.placeholders.items()}
        return {kind: token for kind, token in ids.items() if token is not None}


def find_adapter(class_names: Sequence[str]) -> Adapter:
    """The adapter of the first known model class; raises UnsupportedModelError listing what is supported.

    class_names: a model's class and its ancestors, or the ``architectures`` of a config.
    """
    known: dict[str, Adapter] = {}
    for name in registry().names("adapter"):
        adapter = registry().load("adapter", name)
        known.update(dict.fromkeys(adapter.architectures, adapter))
    for name in class_names:
        if name in known:
            return known[name]
    seen = class_names[0]
    raise UnsupportedModelError(
        f"no adapter for model class {seen}.{did_you_mean(seen, known)} To support a new family, write an adapter (a "
        f"declarative map of about 60 lines) and register it through the 'vtprune' entry point; see docs/adapters.md. "
        f"If {seen} wraps a supported model (PEFT, DataParallel, ...), pass the wrapped model."
    )


def locate(model: nn.Module) -> Parts:
    """Find the modules of ``model``; raises UnsupportedModelError if its adapter's paths do not fit."""
    adapter = find_adapter([ancestor.__name__ for ancestor in type(model).__mro__])
    base: nn.Module = model.base_model  # type: ignore[assignment]
    try:
        language_model = attrgetter(adapter.language_model)(base)
        tower = attrgetter(adapter.vision_tower)(base)
        projector = attrgetter(adapter.projector)(base)
        layers = tuple(language_model.layers)
        attention = tuple(layer.self_attn for layer in layers)
        vision = tuple(attrgetter(adapter.vision_layers)(tower))
        vision_attention = tuple(attrgetter(adapter.vision_attention)(layer) for layer in vision)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"adapter {adapter.name!r} does not fit this {type(model).__name__}: {error}. The installed transformers "
            f"may have moved a module, or the model mixes parts (another vision tower) that the adapter does not know"
        ) from error
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[operator]
    return Parts(
        adapter, model, base, language_model, layers, attention, tower, vision, vision_attention, projector, head
    )
