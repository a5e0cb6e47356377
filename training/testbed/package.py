"""From a state dict to a folder that transformers loads: weights in bfloat16, tokenizer, processor, generation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import CLIPImageProcessorPil, GenerationConfig, LlavaProcessor, Qwen2VLImageProcessorPil

from training.testbed.families import MEAN, STD, Family, Llava
from vtprune.testbed.scenes import CANVAS
from vtprune.testbed.vocabulary import (
    BOS,
    EOS,
    IMAGE,
    IMAGE_PAD,
    INDEX,
    PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    build_tokenizer,
)

MAX_TOKENS: Final = 2048
MAX_NEW_TOKENS: Final = 10
_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for item in message['content'] -%}"
    "{%- if item['type'] == 'text' -%}{{ item['text'] }}"
    "PLACEHOLDERS"
    "{%- endif -%}{%- if not loop.last %} {% endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- if not loop.last %} {% endif -%}"
    "{%- endfor -%}"
)
_PICTURES: Final[Mapping[str, Any]] = {
    "image_mean": [MEAN] * 3,
    "image_std": [STD] * 3,
    "rescale_factor": 1 / 255,
    "do_convert_rgb": True,
}
_PATCHES: Final[Mapping[str, Any]] = {
    **_PICTURES,
    "patch_size": 2,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "size": {"shortest_edge": 16, "longest_edge": CANVAS * CANVAS},
}


def chat_template(**placeholders: str) -> str:
    """A template that writes the parts of a message in order, apart by spaces; ``image="<image>"``."""
    items = [f"{{%- elif item['type'] == '{kind}' -%}}{text}" for kind, text in placeholders.items()]
    return _TEMPLATE.replace("PLACEHOLDERS", "".join(items))


def write_folder(family: Family, state: Mapping[str, Tensor], folder: Path) -> None:
    """Write a model of `family` with the weights `state` to `folder`."""
    model = family.build()
    model.load_state_dict(state)
    model.set_attn_implementation("sdpa")
    model.generation_config = GenerationConfig(
        bos_token_id=INDEX[BOS],
        eos_token_id=INDEX[EOS],
        pad_token_id=INDEX[PAD],
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    (_write_llava if isinstance(family, Llava) else _write_qwen)(folder)


def _write_llava(folder: Path) -> None:
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"height": CANVAS, "width": CANVAS}, do_center_crop=False, **_PICTURES
        ),
        tokenizer=build_tokenizer(MAX_TOKENS, image_token=IMAGE),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template(image=IMAGE),
    ).save_pretrained(folder)


def _write_qwen(folder: Path) -> None:
    """What `Qwen2_5_VLProcessor` would write; it cannot be made without torchvision."""
    tokenizer = build_tokenizer(
        MAX_TOKENS,
        image_token=IMAGE_PAD,
        video_token=VIDEO_PAD,
        vision_bos_token=VISION_START,
        vision_eos_token=VISION_END,
    )
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(**_PATCHES).save_pretrained(folder)
    settings = {
        **_PATCHES,
        "video_processor_type": "Qwen2VLVideoProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_sample_frames": False,
        "cap_pixels_per_frame": False,
        "fps": 2.0,
    }
    _write_json(folder / "video_preprocessor_config.json", settings)
    _write_json(folder / "processor_config.json", {"processor_class": "Qwen2_5_VLProcessor"})
    image, video = (f"{VISION_START}{token}{VISION_END}" for token in (IMAGE_PAD, VIDEO_PAD))
    (folder / "chat_template.jinja").write_text(chat_template(image=image, video=video), encoding="utf-8")


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
