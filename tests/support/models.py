"""Tiny vision-language models with random weights, built from transformers configurations (no downloads).

Two families: LLaVA (CLIP tower with a CLS token, 1-D RoPE, Llama or Mistral text) and Qwen2.5-VL (window attention in
the tower, 2x2 merger, M-RoPE). Both use grouped-query attention, float32 and fixed seeds. The default initialisation of
transformers (standard deviation 0.02) attends almost uniformly, so that dropping a token hardly shows; the weights are
redrawn here with unit gain, and sharper queries and keys, so that it does.

Models are cached and shared: a test must leave them as it found them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

Attention = Literal["sdpa", "eager"]
Grid = tuple[int, int, int]
Inputs = dict[str, Tensor]

VOCABULARY = 128
PAD, VISION_START, VISION_END, VIDEO, IMAGE = 0, 124, 125, 126, 127
TEXT_IDS = (1, 124)
QUERY_KEY_GAIN = 1.6
OUTPUT_GAIN = 0.5  # keeps float32 noise in the logits well below 1e-5 and the effect of a dropped token above 0.1
LLAVA_SIZE, LLAVA_PATCH = 28, 7
QWEN_PATCH, QWEN_TEMPORAL, QWEN_MERGE = 4, 2, 2
QWEN_GRIDS: tuple[Grid, ...] = ((1, 8, 8), (1, 4, 8), (1, 8, 12), (1, 6, 10))


@dataclass(frozen=True)
class Tiny:
    """A tiny model and a maker of inputs for it.

    `make_inputs(images=(1,), grids=None, seed=0, side="left", text=(2, 6))` returns the keyword arguments of
    `model(...)` and `model.generate(...)`:

    - `images`: how many images each sample holds; (1, 2, 0, 1) is a padded batch of 4 whose sample 2 has none.
    - `grids`: (t, h, w) in patches for each image of the batch in order (Qwen2.5-VL only; `h` and `w` even). By default
      each sample draws its own sizes.
    - `seed`: sample `i` is drawn from `seed + i` alone: `make_inputs((images[i],), seed=seed + i)` is that sample by
      itself, without padding.
    - `side`: where the padding goes, "left" or "right".
    - `text`: least and greatest number of text tokens in each run before, between and after the images.
    """

    name: str
    model: PreTrainedModel
    make_inputs: Callable[..., Inputs]


def vision_mask(inputs: Inputs) -> Tensor:
    """True where the prompt holds a vision token: bool `[batch, token]`."""
    return inputs["input_ids"] == IMAGE


@cache
def tiny_llava(
    attn: Attention = "sdpa",
    text: Literal["llama", "mistral"] = "llama",
    layers: int = 4,
    *,
    sliding_window: int | None = 4096,
    vision_layers: int = 3,
) -> Tiny:
    """LLaVA with 16 vision tokens per image. `sliding_window` concerns Mistral only, whose default is 4096."""
    window = {"sliding_window": sliding_window} if text == "mistral" else {}
    name = f"llava-{text}-window{sliding_window}-{attn}" if window else f"llava-{text}-{attn}"
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": LLAVA_SIZE,
            "patch_size": LLAVA_PATCH,
            "projection_dim": 32,
        },
        text_config={"model_type": text, **_text_config(layers), **window},
        image_token_index=IMAGE,
        image_seq_length=(LLAVA_SIZE // LLAVA_PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return Tiny(name, _build(LlavaForConditionalGeneration, config, attn), _llava_inputs)


@cache
def tiny_qwen2_5_vl(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3) -> Tiny:
    """Qwen2.5-VL whose tower has windows of 2x2 merged tokens and full attention in its last block."""
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": vision_layers,
            "hidden_size": 32,
            "out_hidden_size": 64,
            "num_heads": 4,
            "intermediate_size": 48,
            "patch_size": QWEN_PATCH,
            "temporal_patch_size": QWEN_TEMPORAL,
            "spatial_merge_size": QWEN_MERGE,
            "window_size": 2 * QWEN_PATCH * QWEN_MERGE,
            "fullatt_block_indexes": [vision_layers - 1],
        },
        text_config={
            **_text_config(layers),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
    )
    return Tiny(f"qwen2_5_vl-{attn}", _build(Qwen2_5_VLForConditionalGeneration, config, attn), _qwen_inputs)


def _text_config(layers: int) -> dict[str, object]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "pad_token_id": PAD,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _build(
    model_class: type[PreTrainedModel], config: LlavaConfig | Qwen2_5_VLConfig, attn: Attention
) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        model = model_class(config).eval().float()
    model.set_attn_implementation(attn)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    _sharpen(model)
    _built.add(model)
    return model.requires_grad_(False)


_built: WeakSet[PreTrainedModel] = WeakSet()


def forget_dialogues() -> None:
    """Reset what transformers keeps in a model between calls: Qwen-VL's rope deltas of the latest prompt, which a
    text-only call of another batch size would pick up. The models are shared by all tests."""
    for model in _built:
        if hasattr(model.base_model, "rope_deltas"):
            model.base_model.rope_deltas = None


@torch.no_grad()
def _sharpen(model: PreTrainedModel) -> None:
    """Redraw every weight from a fixed seed: gain 1, more for queries and keys; norms keep their weight of 1."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0.0, 0.1, generator=generator)
        elif "embed" in name and "patch" not in name:
            parameter.normal_(0.0, 1.0, generator=generator)
        elif parameter.dim() >= 2:
            gain = QUERY_KEY_GAIN if any(part in name for part in ("q_proj", "k_proj", "qkv")) else 1.0
            parameter.normal_(0.0, gain / math.sqrt(parameter[0].numel()), generator=generator)
    output = model.get_output_embeddings().weight
    output *= OUTPUT_GAIN
    output[[PAD, *range(TEXT_IDS[1], VOCABULARY)]] = 0.0  # special tokens are hardly ever generated


def _llava_inputs(
    images: Sequence[int] = (1,),
    grids: Sequence[Grid] | None = None,
    seed: int = 0,
    side: Literal["left", "right"] = "left",
    text: tuple[int, int] = (2, 6),
) -> Inputs:
    if grids is not None:
        raise ValueError("grids were given, but every image of the tiny LLaVA has the same size; leave grids out")
    rows, pixels = [], []
    for sample, count in enumerate(images):
        generator = torch.Generator().manual_seed(seed + sample)
        rows.append(_row([(LLAVA_SIZE // LLAVA_PATCH) ** 2] * count, text, generator, wrap=False))
        pixels.append(torch.randn(count, 3, LLAVA_SIZE, LLAVA_SIZE, generator=generator))
    inputs = _pad(rows, side)
    if sum(images):
        inputs["pixel_values"] = torch.cat(pixels)
    return inputs


def _qwen_inputs(
    images: Sequence[int] = (1,),
    grids: Sequence[Grid] | None = None,
    seed: int = 0,
    side: Literal["left", "right"] = "left",
    text: tuple[int, int] = (2, 6),
) -> Inputs:
    if grids is not None and len(grids) != sum(images):
        raise ValueError(
            f"got {len(grids)} grids for {sum(images)} images (images={tuple(images)}); give one grid per image"
        )
    rows, pixels = [], []
    used: list[Grid] = []
    for sample, count in enumerate(images):
        generator = torch.Generator().manual_seed(seed + sample)
        drawn = [QWEN_GRIDS[_draw(0, len(QWEN_GRIDS) - 1, generator)] for _ in range(count)]
        own = drawn if grids is None else list(grids[len(used) : len(used) + count])
        rows.append(_row([t * h * w // QWEN_MERGE**2 for t, h, w in own], text, generator, wrap=True))
        patches = sum(t * h * w for t, h, w in own)
        pixels.append(torch.randn(patches, 3 * QWEN_TEMPORAL * QWEN_PATCH**2, generator=generator))
        used += own
    inputs = _pad(rows, side)
    inputs["mm_token_type_ids"] = vision_mask(inputs).long()
    if used:
        inputs["pixel_values"] = torch.cat(pixels)
        inputs["image_grid_thw"] = torch.tensor(used)
    return inputs


def _draw(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def _row(vision_counts: Sequence[int], text: tuple[int, int], generator: torch.Generator, *, wrap: bool) -> list[int]:
    """Token ids of one sample: a run of text, then each image followed by another run."""

    def run() -> list[int]:
        return torch.randint(*TEXT_IDS, (_draw(*text, generator),), generator=generator).tolist()

    row = run()
    for count in vision_counts:
        row += [VISION_START, *[IMAGE] * count, VISION_END] if wrap else [IMAGE] * count
        row += run()
    return row


def _pad(rows: Sequence[Sequence[int]], side: Literal["left", "right"]) -> Inputs:
    mask = [torch.ones(len(row), dtype=torch.long) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD, padding_side=side),
        "attention_mask": pad(mask, batch_first=True, padding_value=0, padding_side=side),
    }
