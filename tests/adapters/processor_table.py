"""Which processor belongs to which tiny model, and how far one gets without torchvision.

When a line here stops being true, `test_processors.py` fails and says so.
"""

from __future__ import annotations

from typing import Any

from tests.adapters.processors import (
    How,
    Real,
    anyres,
    counted,
    covered,
    pixels,
    pooled,
    rows_and_columns,
    square,
    thw,
    tiled,
    uncut,
    unordered,
)
from vtprune.testing.models.tiles import PINPOINTS
from vtprune.testing.models.tiny import IMAGE, VIDEO, VISION_END, VISION_START

VIDEO_PROCESSOR = "VideoProcessor requires the Torchvision library"
NUM2WORDS = "Package `num2words` is required"
MARKS: dict[str, int] = {
    f"<row_{row}_col_{column}>": 70 + 6 * row + column for row in range(1, 3) for column in range(1, 7)
}


def _clip(size: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}


def _edge(size: int) -> dict[str, Any]:
    return {"size": {"height": size, "width": size}}


def _aria(config: Any) -> None:
    """Its image processor knows crops of 490 and 980 pixels only."""
    config.vision_config.image_size, config.vision_config.patch_size = ARIA, 70
    config.projector_patch_to_query_dict = {(ARIA // 70) ** 2: 10}


def _qwen(patch: int = 4, temporal: int = 2, merge: int = 2, most: int = 48 * 48) -> dict[str, Any]:
    limits = {"shortest_edge": 16 * 16, "longest_edge": most}
    return {"size": limits, "patch_size": patch, "temporal_patch_size": temporal, "merge_size": merge}


AUDIO = {"<|audio|>": 119, "<|audio>": 120, "<audio|>": 121}
AUDIO_NAMES = {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
ARIA = 490
ARIA_SPLITS = [[ARIA, 2 * ARIA], [2 * ARIA, ARIA]]
QWEN = {"<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO, "<|vision_start|>": VISION_START, "<|vision_end|>": VISION_END}
QWEN_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
CLIP = {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}

GLM = {
    "<|image|>": IMAGE,
    "<|video|>": VIDEO,
    "<|begin_of_image|>": VISION_START,
    "<|end_of_image|>": VISION_END,
    "<|begin_of_video|>": 122,
    "<|end_of_video|>": 123,
}


def _qwen_vl(processor: str, video: str = "") -> Real:
    images = "Qwen2VLImageProcessorPil"
    how: How = "images"
    return Real(processor, images, _qwen(), thw(2), {}, QWEN, {}, QWEN_MARK, VIDEO_PROCESSOR, how, video=video)


def _glm(prefix: str) -> Real:
    return Real(
        f"{prefix}Processor",
        f"{prefix}ImageProcessorPil",
        _qwen(most=2 * 48 * 48),
        thw(2),
        specials=GLM,
        mark="<|begin_of_image|><|image|><|end_of_image|>",
        fails=VIDEO_PROCESSOR,
        how="images",
    )


LLAVA = Real("LlavaProcessor", "CLIPImageProcessorPil", _clip(28), square(4), CLIP)
PIXTRAL = Real(
    "PixtralProcessor",
    "PixtralImageProcessorPil",
    {"size": {"longest_edge": 64}, "patch_size": {"height": 8, "width": 8}},
    pixels(8),
    {"patch_size": 4, "spatial_merge_size": 2},
    {"[IMG]": IMAGE, "[IMG_BREAK]": 119, "[IMG_END]": 120},
    mark="[IMG]",
    fails="PixtralProcessor requires the Torchvision library",
    how="pixels",
)

REAL: dict[str, Real] = {
    "llava": LLAVA,
    "vipllava": LLAVA,
    "llava_next": Real(
        "LlavaNextProcessor",
        "LlavaNextImageProcessorPil",
        _clip(28) | {"image_grid_pinpoints": PINPOINTS},
        anyres(28, 4),
        CLIP,
    ),
    "llava_next_video": Real(
        "LlavaNextVideoProcessor",
        "LlavaNextImageProcessorPil",
        _clip(28) | {"image_grid_pinpoints": PINPOINTS},
        anyres(28, 4),
        CLIP,
        fails=VIDEO_PROCESSOR,
        how="images",
    ),
    "llava_onevision": Real(
        "LlavaOnevisionProcessor",
        "LlavaOnevisionImageProcessorPil",
        _edge(28)
        | {"image_grid_pinpoints": [[28 * rows, 28 * columns] for rows, columns in ((1, 1), (1, 2), (2, 1), (2, 2))]},
        anyres(28, 4),
        {"num_image_tokens": 16, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_4"},
        fails=VIDEO_PROCESSOR,
        how="images",
        nested=True,
        together=uncut(4),
    ),
    "video_llava": Real(
        "VideoLlavaProcessor",
        "VideoLlavaImageProcessor",
        _clip(28),
        square(4),
        CLIP,
        fails=VIDEO_PROCESSOR,
        how="images",
    ),
    "qwen2_vl": _qwen_vl("Qwen2VLProcessor"),
    "qwen2_5_vl": _qwen_vl("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen3_vl": _qwen_vl("Qwen3VLProcessor"),
    "qwen3_5": _qwen_vl("Qwen3VLProcessor"),
    "glm4v": _glm("Glm4v"),
    "glm46v": _glm("Glm46V"),
    "video_llama_3": Real(
        "VideoLlama3Processor",
        "VideoLlama3ImageProcessorPil",
        _qwen(temporal=1, merge=1, most=24 * 24),
        thw(1),
        {},
        QWEN,
        {},
        "<|image_pad|>",
        VIDEO_PROCESSOR,
        "images",
    ),
    "paddleocr_vl": Real(
        "PaddleOCRVLProcessor",
        "PaddleOCRVLImageProcessorPil",
        _qwen(temporal=1),
        thw(2),
        {},
        {"<|IMAGE_PLACEHOLDER|>": IMAGE, "<|IMAGE_START|>": VISION_START, "<|IMAGE_END|>": VISION_END},
        {"image_token": "<|IMAGE_PLACEHOLDER|>"},
        "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
    ),
    "paligemma": Real(
        "PaliGemmaProcessor",
        "SiglipImageProcessorPil",
        _edge(28) | {"image_seq_length": 16},
        square(4),
        {},
        {"<image>": IMAGE},
        {"image_token": "<image>"},
        chat=False,
    ),
    "gemma3": Real(
        "Gemma3Processor",
        "Gemma3ImageProcessorPil",
        _edge(32),
        square(4),
        {"image_seq_length": 16},
        {"<image_soft_token>": IMAGE, "<start_of_image>": VISION_START, "<end_of_image>": VISION_END},
        {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        "<start_of_image>",
        nested=True,
    ),
    "gemma4": Real(
        "Gemma4Processor",
        "Gemma4ImageProcessorPil",
        {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 2},
        pooled(2),
        {"image_seq_length": 70},
        {"<|image|>": IMAGE, "<|video|>": VIDEO, "<|image>": VISION_START, "<image|>": VISION_END, **AUDIO},
        {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>", **AUDIO_NAMES},
        "<|image|>",
        VIDEO_PROCESSOR,
        "images",
        "No module named 'torchvision'",
        "pixels",
        wide=False,
        nested=True,
    ),
    "lfm2_vl": Real(
        "Lfm2VlProcessor",
        "Lfm2VlImageProcessor",
        {},
        pixels(8),
        fails="Lfm2VlImageProcessor requires the Torchvision library",
        how="none",
    ),
    "internvl": Real(
        "InternVLProcessor",
        "GotOcr2ImageProcessorPil",
        _edge(32) | {"crop_to_patches": True, "max_patches": 4},
        tiled(4),
        {"image_seq_length": 16},
        {"<IMG_CONTEXT>": IMAGE, "<img>": VISION_START, "</img>": VISION_END, "<video>": VIDEO},
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        "<IMG_CONTEXT>",
        VIDEO_PROCESSOR,
        "images",
    ),
    "idefics2": Real(
        "Idefics2Processor",
        "Idefics2ImageProcessorPil",
        {"size": {"shortest_edge": 16, "longest_edge": 32}},
        unordered(12),
        {"image_seq_len": 12},
        {"<image>": IMAGE, "<fake_token_around_image>": 119, "<end_of_utterance>": 120},
        {"image_token": "<image>", "image_boundary_token": "<fake_token_around_image>"},
        fails_before="Idefics2ImageProcessorPil requires the Torchvision library",
        how_before="none",
    ),
    "idefics3": Real(
        "Idefics3Processor",
        "Idefics3ImageProcessorPil",
        {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}},
        rows_and_columns(4),
        {"image_seq_len": 16},
        {"<image>": IMAGE, "<fake_token_around_image>": 119, "<end_of_utterance>": 120, "<global-img>": 121, **MARKS},
        fails_before="Idefics3ImageProcessorPil requires the Torchvision library",
        how_before="none",
    ),
    "smolvlm": Real(
        "SmolVLMProcessor",
        "SmolVLMImageProcessorPil",
        {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}},
        rows_and_columns(4),
        {"image_seq_len": 16},
        {"<image>": IMAGE, "<fake_token_around_image>": 119, "<end_of_utterance>": 120, "<global-img>": 121, **MARKS},
        fails=VIDEO_PROCESSOR,
        remains=NUM2WORDS,
        how="pixels",
        nested=True,
        fails_before="SmolVLMImageProcessorPil requires the Torchvision library",
        how_before="none",
    ),
    "pixtral": PIXTRAL,
    "mistral3": PIXTRAL,
    "ovis2": Real(
        "Ovis2Processor",
        "Ovis2ImageProcessorPil",
        _edge(32) | {"crop_to_patches": True, "max_patches": 4},
        covered(4),
        {"image_seq_length": 16},
        {
            "<IMG_ATOM>": IMAGE,
            "<image>": 118,
            "<IMG_START>": 119,
            "<IMG_GRID>": 120,
            "<IMG_COL>": 121,
            "<IMG_ROW>": 122,
            "<IMG_END>": 123,
        },
        fails_before="Ovis2ImageProcessorPil requires the Torchvision library",
        how_before="none",
    ),
    "aria": Real(
        "AriaProcessor",
        "AriaImageProcessorPil",
        {"max_image_size": ARIA, "split_image": True, "split_resolutions": ARIA_SPLITS},
        counted(10),
        {"size_conversion": {ARIA: 10}},
        {"<|img|>": IMAGE},
        {"image_token": "<|img|>"},
        "<|img|>",
        call={"max_image_size": ARIA, "split_image": True},
        config=_aria,
    ),
    "aya_vision": Real(
        "AyaVisionProcessor",
        "GotOcr2ImageProcessorPil",
        _edge(32) | {"crop_to_patches": True, "max_patches": 4},
        tiled(4),
        {"patch_size": 4, "img_size": 32, "downsample_factor": 2},
        {
            "<|IMG_PATCH|>": IMAGE,
            "<image>": 118,
            "<|START_OF_IMG|>": 119,
            "<|END_OF_IMG|>": 120,
            "TILE": 121,
            "TILE_GLOBAL": 122,
        },
    ),
    "cohere2_vision": Real(
        "Cohere2VisionProcessor",
        "Cohere2VisionImageProcessor",
        {},
        tiled(4),
        fails="Cohere2VisionImageProcessor requires the Torchvision library",
        how="none",
    ),
    "lighton_ocr": Real(
        "LightOnOcrProcessor",
        "PixtralImageProcessorPil",
        {"size": {"longest_edge": 64}, "patch_size": {"height": 8, "width": 8}},
        pixels(8),
        {"patch_size": 4, "spatial_merge_size": 2},
        {"<|image_pad|>": IMAGE, "<|vision_pad|>": 119, "<|vision_end|>": 120},
        {"image_token": "<|image_pad|>", "image_break_token": "<|vision_pad|>", "image_end_token": "<|vision_end|>"},
        "<|image_pad|>",
    ),
    "got_ocr2": Real(
        "GotOcr2Processor",
        "GotOcr2ImageProcessorPil",
        _edge(64) | {"crop_to_patches": True, "max_patches": 4},
        tiled(4),
        {},
        {"<imgpad>": IMAGE, "<img>": VISION_START, "</img>": VISION_END},
        {},
        "<imgpad>",
        call={"crop_to_patches": True, "max_patches": 4, "num_image_tokens": 16},
        chat=False,
    ),
}
