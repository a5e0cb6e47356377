"""GOT-OCR 2.0 (arXiv 2409.01704): a convolutional projector behind a SAM-like tower, Qwen2 with 1-D RoPE.

Convolutions blend each patch into several tokens: tokens form a grid, but no patch belongs to one of them alone, and
the tower's own attention is computed where nothing can read it. The projector's convolutions run on more positions than
there are tokens; FLOPs count them once per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter, VisionCall, VisionInput
from vtprune.core.signals import KINDS


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    pixels: Tensor = call.arguments["pixel_values"]
    # Two convolutions of stride 2, which round up.
    height, width = (-(-side // model.config.vision_config.patch_size // 4) for side in pixels.shape[-2:])
    return [VisionInput(height * width, (1, height, width), page, number) for number, page in enumerate(pixels)]


def _windows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[list[int]]:
    config, pixels = model.config.vision_config, call.arguments["pixel_values"]
    height, width = (side // config.patch_size for side in pixels.shape[-2:])
    padded = -(-height // config.window_size) * -(-width // config.window_size)
    local, whole = [config.window_size**2] * (padded * len(images)), [height * width] * len(images)
    return [whole if layer in config.global_attn_indexes else local for layer in range(config.num_hidden_layers)]


ADAPTER = Adapter(
    name="got_ocr2",
    summary="GOT-OCR 2.0",
    architectures=("GotOcr2ForConditionalGeneration",),
    language_model="language_model",
    vision_tower="vision_tower",
    vision_layers="layers",
    projector="multi_modal_projector",
    placeholders={"image": "image_token_id"},
    images=_images,
    windows=_windows,
    unique=unique_images("pixel_values"),
    provides=frozenset(KINDS) - {"vision_attention"},
)
