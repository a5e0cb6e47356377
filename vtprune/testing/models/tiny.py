"""What the tiny models share: sharpened weights, token rows, padding.

The default initialisation of transformers (standard deviation 0.02) attends almost uniformly, so that dropping a token
hardly shows; the weights are redrawn here with unit gain, and sharper queries and keys, so that it does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import PreTrainedModel

Attention = Literal["sdpa", "eager"]
Side = Literal["left", "right"]
Grid = tuple[int, int, int]
Inputs = dict[str, Tensor]

VOCABULARY = 128
PAD, VISION_START, VISION_END, VIDEO, IMAGE = 0, 124, 125, 126, 127
TEXT_IDS = (1, 124)
QUERY_KEY_GAIN = 1.6
OUTPUT_GAIN = 0.5  # keeps float32 noise in the logits well below 1e-5 and the effect of a dropped token above 0.1


@dataclass(frozen=True)
class Tiny:
    """A tiny model and a maker of inputs for it.

    `make_inputs(images=(1,), seed=0, side="left", text=(2, 6))` returns the keyword arguments of `model(...)` and
    `model.generate(...)`:

    - `images`: how many images each sample holds; (1, 2, 0, 1) is a padded batch of 4 whose sample 2 has none.
    - `seed`: sample `i` is drawn from `seed + i` alone: `make_inputs((images[i],), seed=seed + i)` is that sample by
      itself, without padding.
    - `side`: where the padding goes, "left" or "right".
    - `text`: least and greatest number of text tokens in each run before, between and after the images.

    Families may take more: `grids` of Qwen-VL and GLM-V, (t, h, w) in patches for each image of the batch in order, and
    `videos`, how many videos each sample holds, with `video_grids`.
    """

    name: str
    model: PreTrainedModel
    make_inputs: Callable[..., Inputs]


def vision_mask(inputs: Inputs) -> Tensor:
    """True where the prompt holds a vision token, of an image or a video: bool `[batch, token]`."""
    return (inputs["input_ids"] == IMAGE) | (inputs["input_ids"] == VIDEO)


def text_config(layers: int) -> dict[str, Any]:
    """Sizes of the language model: grouped-query attention, 64 wide."""
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


def build(model_class: type[PreTrainedModel], config: Any, attn: Attention) -> PreTrainedModel:
    """A model with sharpened weights from a fixed seed, in float32 and evaluation mode, without gradients."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # newline tokens and the like keep what they are initialised with
        model = model_class(config).eval().float()
    model.set_attn_implementation(attn)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    _sharpen(model)
    _built.add(model)
    return model.requires_grad_(False)


_built: WeakSet[PreTrainedModel] = WeakSet()


def forget_dialogue(model: PreTrainedModel) -> None:
    """Reset what transformers keeps in a model between calls: Qwen-VL's rope deltas of the latest prompt, which a
    text-only call of another batch size would pick up."""
    if hasattr(model.base_model, "rope_deltas"):
        model.base_model.rope_deltas = None


def forget_dialogues() -> None:
    """Reset all tiny models that were built, as `forget_dialogue` does: they are shared by all tests."""
    for model in _built:
        forget_dialogue(model)


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
            one = parameter[0, 0] if "experts" in name and parameter.dim() == 3 else parameter[0]
            parameter.normal_(0.0, gain / math.sqrt(one.numel()), generator=generator)
    output = model.get_output_embeddings().weight
    output *= OUTPUT_GAIN
    output[[PAD, *range(TEXT_IDS[1], VOCABULARY)]] = 0.0  # special tokens are hardly ever generated


@torch.no_grad()
def weigh_norms(model: PreTrainedModel, norm: str, weight: float) -> None:
    """Set the weight of every norm of that name in the decoder, which replaces the gain of the projection before it."""
    for name, parameter in model.get_decoder().named_parameters():
        if name.endswith(f"{norm}.weight"):
            parameter.fill_(weight)


def draw(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def token_row(
    vision_counts: Sequence[int], text: tuple[int, int], generator: torch.Generator, *, wrap: bool
) -> list[int]:
    """Token ids of one sample: a run of text, then each image followed by another run."""

    def run() -> list[int]:
        return torch.randint(*TEXT_IDS, (draw(*text, generator),), generator=generator).tolist()

    row = run()
    for count in vision_counts:
        row += [VISION_START, *[IMAGE] * count, VISION_END] if wrap else [IMAGE] * count
        row += run()
    return row


def pad_rows(rows: Sequence[Sequence[int]], side: Side) -> Inputs:
    """`input_ids` and `attention_mask`, int64 `[batch, token]`, of rows padded on one side."""
    mask = [torch.ones(len(row), dtype=torch.long) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD, padding_side=side),
        "attention_mask": pad(mask, batch_first=True, padding_value=0, padding_side=side),
    }
