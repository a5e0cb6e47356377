"""The families of the testbed, as the training loop sees them: build, prompt, vision features.

The models are plain transformers classes. Only the forward pass of the vision tower is written out, because training
feeds many images of one size: Qwen's windows then have one shape and need no loop. `tests/testbed/test_training.py`
compares it with the model's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from training.testbed.attention import NAME, attend
from vtprune.testbed.sequences import FRAMES_PER_MOMENT, Kind
from vtprune.testbed.vocabulary import (
    BOS,
    EOS,
    IMAGE,
    IMAGE_PAD,
    INDEX,
    ORDINALS,
    PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    WORDS,
)

SIDE = 12
TOKENS = SIDE * SIDE
MEAN, STD = 0.5, 0.25
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """Of a language model and, for LLaVA, its CLIP tower: widths (of the residual stream and inside the MLPs), layers,
    heads. tower: features of the last layer but one are read, so it needs two layers."""

    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    tower_width: int
    tower_inner: int
    tower_layers: int
    tower_heads: int


SMALL: Final = Size(128, 384, 8, 4, 2, tower_width=128, tower_inner=512, tower_layers=4, tower_heads=4)
LARGE: Final = Size(384, 896, 12, 12, 4, tower_width=256, tower_inner=1024, tower_layers=6, tower_heads=8)
"""Heads as wide as those of `SMALL` (32), three times as many, so that methods for single heads have a choice."""


def _text(size: Size) -> dict[str, object]:
    return {
        "vocab_size": len(WORDS),
        "hidden_size": size.width,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": INDEX[BOS],
        "eos_token_id": INDEX[EOS],
        "pad_token_id": INDEX[PAD],
    }


@dataclass(frozen=True)
class Prompt:
    """What stands before the questions: ids `[prefix]`, where the image tokens are (bool `[prefix]`), their positions
    (int64 `[axis, prefix]`; one axis for 1-D RoPE, three for M-RoPE) and the position of the first word."""

    ids: Tensor
    is_image: Tensor
    positions: Tensor
    start: int

    def to(self, device: torch.device) -> Prompt:
        """The same on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("ids", "is_image", "positions")}
        return replace(self, **moved)


class Family(ABC):
    """An architecture and its size, by the name under which a model of it is trained.

    size: of the model; widths: of the features that the dense losses read, the tower's and the language model's.
    position: whether the tower must learn where its patches are.
    """

    widths: tuple[int, int]
    position: bool

    def __init__(self, name: str, size: Size) -> None:
        self.name, self.size = name, size
        self._prompts: dict[tuple[Kind, torch.device], Prompt] = {}

    @abstractmethod
    def build(self) -> PreTrainedModel:
        """The model with random weights, on the CPU."""

    @abstractmethod
    def tower(self, model: PreTrainedModel) -> nn.Module:
        """The vision tower of a model."""

    @abstractmethod
    def see(self, model: PreTrainedModel, frames: Tensor, kind: Kind) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features for the language model `[image, vision, dim]`, features for the dense losses `[image, vision,
        dim]`, and the CLS token of the last layer `[image, dim]` if there is one. frames: `[image, 2, 3, 48, 48]`."""

    def prompt(self, model: PreTrainedModel, kind: Kind, device: torch.device = _CPU) -> Prompt:
        """What stands before the questions of a kind; laid out once for each device."""
        if (kind, device) not in self._prompts:
            self._prompts[kind, device] = self._prompt(model, kind).to(device)
        return self._prompts[kind, device]

    @abstractmethod
    def _prompt(self, model: PreTrainedModel, kind: Kind) -> Prompt: ...


class Llava(Family):
    """LLaVA: a CLIP tower with a CLS token, features of the last layer but one, an MLP projector, Llama with GQA."""

    position = True

    def __init__(self, name: str, size: Size) -> None:
        super().__init__(name, size)
        self.widths = (size.tower_width, size.width)

    def build(self) -> PreTrainedModel:
        config = LlavaConfig(
            vision_config={
                "model_type": "clip_vision_model",
                "hidden_size": self.size.tower_width,
                "intermediate_size": self.size.tower_inner,
                "num_hidden_layers": self.size.tower_layers,
                "num_attention_heads": self.size.tower_heads,
                "image_size": 48,
                "patch_size": 4,
                "projection_dim": self.size.tower_width,
                "hidden_act": "gelu",
            },
            text_config={"model_type": "llama", **_text(self.size)},
            image_token_index=INDEX[IMAGE],
            image_seq_length=TOKENS,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
            tie_word_embeddings=False,
        )
        config._attn_implementation = NAME
        return LlavaForConditionalGeneration(config)

    def tower(self, model: PreTrainedModel) -> nn.Module:
        return model.model.vision_tower

    def see(self, model: PreTrainedModel, frames: Tensor, kind: Kind) -> tuple[Tensor, Tensor, Tensor]:
        """As `Family.see`; the tower's features serve the dense losses, and the first frame is taken."""
        tower = model.model.vision_tower
        hidden = tower.pre_layrnorm(tower.embeddings(frames[:, 0]))
        for layer in tower.encoder.layers:
            features, hidden = hidden, layer(hidden, None)
        patches = features[:, 1:]
        return model.model.multi_modal_projector(patches), patches, tower.post_layernorm(hidden[:, 0])

    def _prompt(self, model: PreTrainedModel, kind: Kind) -> Prompt:
        ids = [INDEX[BOS]]
        images = {"image": 1, "pair": 2, "video": 4}[kind]
        for image in range(images):
            ids += [INDEX[ORDINALS[image]]] * (images > 1) + [INDEX[IMAGE]] * TOKENS
        tensor = torch.tensor(ids)
        return Prompt(tensor, tensor == INDEX[IMAGE], torch.arange(len(ids))[None], len(ids))


class Mrope(Family):
    """Qwen2.5-VL: no CLS, windows of one cell and one layer of full attention, 2 x 2 merger, M-RoPE. The tower has one
    size; of `size` the language model's part counts."""

    position = False

    def __init__(self, name: str, size: Size) -> None:
        super().__init__(name, size)
        self.widths = (size.width, size.width)

    def build(self) -> PreTrainedModel:
        config = Qwen2_5_VLConfig(
            vision_config={
                "depth": 4,
                "hidden_size": 64,
                "intermediate_size": 192,
                "num_heads": 2,
                "patch_size": 2,
                "spatial_merge_size": 2,
                "temporal_patch_size": FRAMES_PER_MOMENT,
                "window_size": 12,
                "fullatt_block_indexes": [3],
                "out_hidden_size": self.size.width,
                "tokens_per_second": 2,
            },
            text_config={
                **_text(self.size),
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            },
            image_token_id=INDEX[IMAGE_PAD],
            video_token_id=INDEX[VIDEO_PAD],
            vision_start_token_id=INDEX[VISION_START],
            vision_end_token_id=INDEX[VISION_END],
            tie_word_embeddings=False,
        )
        config._attn_implementation = NAME
        return Qwen2_5_VLForConditionalGeneration(config)

    def tower(self, model: PreTrainedModel) -> nn.Module:
        return model.model.visual

    def see(self, model: PreTrainedModel, frames: Tensor, kind: Kind) -> tuple[Tensor, Tensor, None]:
        """As `Family.see`; the merger's output serves both uses, and there is no CLS token."""
        visual: Any = model.model.visual
        blocks = "i t c (gh mh ph) (gw mw pw) -> i (gh gw mh mw) (c t ph pw)"
        patches = rearrange(frames, blocks, gh=SIDE, mh=2, ph=2, gw=SIDE, mw=2, pw=2)
        count = len(patches)
        hidden = visual.patch_embed(patches.flatten(0, 1)).unflatten(0, (count, -1))
        order, rope = self._layout(visual)
        units = hidden.unflatten(1, (TOKENS, 4))[:, order]
        hidden = units.flatten(1, 2)
        for index, block in enumerate(visual.blocks):
            windows = 1 if index in visual.fullatt_block_indexes else 16
            hidden = hidden + self._attention(block, block.norm1(hidden), rope, windows)
            hidden = hidden + block.mlp(block.norm2(hidden))
        merged = visual.merger(hidden.flatten(0, 1)).unflatten(0, (count, TOKENS))
        features = merged[:, order.argsort()]
        return features, features, None

    def _layout(self, visual: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        device = visual.patch_embed.proj.weight.device
        grid = rearrange(torch.arange(TOKENS, device=device), "(gh wh gw ww) -> (gh gw wh ww)", gh=4, wh=3, gw=4, ww=3)
        rows, columns = torch.meshgrid(*[torch.arange(2 * SIDE, device=device)] * 2, indexing="ij")
        place = torch.stack([rows, columns], -1)
        place = rearrange(place, "(gh mh) (gw mw) two -> (gh gw) (mh mw) two", mh=2, mw=2)[grid].flatten(0, 1)
        return grid, visual.rotary_pos_emb(torch.zeros(1, device=device), place)

    def _attention(self, block: Any, hidden: Tensor, rope: tuple[Tensor, Tensor], windows: int) -> Tensor:
        attention = block.attn
        query, key, value = rearrange(attention.qkv(hidden), "i p (three h d) -> three i p h d", three=3, h=2)
        query, key = apply_rotary_pos_emb_vision(query, key, *rope)
        query, key, value = (rearrange(x, "i (w p) h d -> (i w) h p d", w=windows) for x in (query, key, value))
        out = attend(query, key, value, None, attention.scaling)
        return attention.proj(rearrange(out, "(i w) h p d -> i (w p) (h d)", w=windows))

    def _prompt(self, model: PreTrainedModel, kind: Kind) -> Prompt:
        ids, images = [INDEX[BOS]], []
        start, end = [INDEX[VISION_START]], [INDEX[VISION_END]]
        if kind == "video":
            ids += start + [INDEX[VIDEO_PAD]] * (4 * TOKENS) + end
        else:
            for image in range({"image": 1, "pair": 2}[kind]):
                ordinal = [INDEX[ORDINALS[image]]] if kind == "pair" else []
                ids += ordinal + start + [INDEX[IMAGE_PAD]] * TOKENS + end
                images.append([1, 2 * SIDE, 2 * SIDE])
        tensor = torch.tensor(ids)
        is_image = (tensor == INDEX[IMAGE_PAD]) | (tensor == INDEX[VIDEO_PAD])
        kinds = torch.where(tensor == INDEX[IMAGE_PAD], 1, torch.where(tensor == INDEX[VIDEO_PAD], 2, 0))
        positions, _ = model.model.get_rope_index(
            tensor[None],
            mm_token_type_ids=kinds[None].int(),
            image_grid_thw=torch.tensor(images) if images else None,
            video_grid_thw=torch.tensor([[4, 2 * SIDE, 2 * SIDE]]) if kind == "video" else None,
            second_per_grid_ts=torch.tensor([1.0]) if kind == "video" else None,
        )
        return Prompt(tensor, is_image, positions[:, 0], int(positions.max()) + 1)


SHIPPED: Final = ("mrope", "nano")
"""The models whose weights come with vtprune."""
FAMILIES: Final[dict[str, Family]] = {
    family.name: family for family in (Llava("nano", SMALL), Mrope("mrope", SMALL), Llava("mini", LARGE))
}
