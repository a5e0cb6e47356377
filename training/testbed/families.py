"""The two families of the testbed, as the training loop sees them: build, prompt, vision features.

The models are plain transformers classes. Only the forward pass of the vision tower is written out, because training
feeds many images of one size: Qwen's windows then have one shape and need no loop. `tests/testbed/test_training.py`
compares it with the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass

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
WIDTH = 128
MEAN, STD = 0.5, 0.25
_TEXT = {
    "vocab_size": len(WORDS),
    "hidden_size": WIDTH,
    "intermediate_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
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


class Nano:
    """LLaVA: a CLIP tower with a CLS token, features of the last layer but one, an MLP projector, Llama with GQA."""

    name = "nano"

    def build(self) -> PreTrainedModel:
        config = LlavaConfig(
            vision_config={
                "model_type": "clip_vision_model",
                "hidden_size": WIDTH,
                "intermediate_size": 512,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": 48,
                "patch_size": 4,
                "projection_dim": WIDTH,
                "hidden_act": "gelu",
            },
            text_config={"model_type": "llama", **_TEXT},
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
        """Features for the language model `[image, vision, dim]`, features for the dense losses (the tower's), and the
        CLS token of the last layer `[image, dim]`. frames: `[image, frame, 3, 48, 48]`; the first one is taken."""
        tower = model.model.vision_tower
        hidden = tower.pre_layrnorm(tower.embeddings(frames[:, 0]))
        for layer in tower.encoder.layers:
            features, hidden = hidden, layer(hidden, None)
        patches = features[:, 1:]
        return model.model.multi_modal_projector(patches), patches, tower.post_layernorm(hidden[:, 0])

    def prompt(self, model: PreTrainedModel, kind: Kind) -> Prompt:
        ids = [INDEX[BOS]]
        images = {"image": 1, "pair": 2, "video": 4}[kind]
        for image in range(images):
            ids += [INDEX[ORDINALS[image]]] * (images > 1) + [INDEX[IMAGE]] * TOKENS
        tensor = torch.tensor(ids)
        return Prompt(tensor, tensor == INDEX[IMAGE], torch.arange(len(ids))[None], len(ids))


class Mrope:
    """Qwen2.5-VL: no CLS, windows of one cell and one layer of full attention, 2 x 2 merger, M-RoPE."""

    name = "mrope"

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
                "out_hidden_size": WIDTH,
                "tokens_per_second": 2,
            },
            text_config={
                **_TEXT,
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
        """As `Nano.see`; the merger's output serves both uses, and there is no CLS token. frames:
        `[image, 2, 3, 48, 48]`."""
        visual = model.model.visual
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

    def _layout(self, visual: nn.Module) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        grid = rearrange(torch.arange(TOKENS), "(gh wh gw ww) -> (gh gw wh ww)", gh=4, wh=3, gw=4, ww=3)
        rows, columns = torch.meshgrid(torch.arange(2 * SIDE), torch.arange(2 * SIDE), indexing="ij")
        place = torch.stack([rows, columns], -1)
        place = rearrange(place, "(gh mh) (gw mw) two -> (gh gw) (mh mw) two", mh=2, mw=2)[grid].flatten(0, 1)
        return grid, visual.rotary_pos_emb(torch.zeros(1), place)

    def _attention(self, block: nn.Module, hidden: Tensor, rope: tuple[Tensor, Tensor], windows: int) -> Tensor:
        attention = block.attn
        query, key, value = rearrange(attention.qkv(hidden), "i p (three h d) -> three i p h d", three=3, h=2)
        query, key = apply_rotary_pos_emb_vision(query, key, *rope)
        parts = [rearrange(x, "i (w p) h d -> (i w) h p d", w=windows) for x in (query, key, value)]
        out = attend(*parts, None, attention.scaling)
        return attention.proj(rearrange(out, "(i w) h p d -> i (w p) (h d)", w=windows))

    def prompt(self, model: PreTrainedModel, kind: Kind) -> Prompt:
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


FAMILIES = {"nano": Nano(), "mrope": Mrope()}
