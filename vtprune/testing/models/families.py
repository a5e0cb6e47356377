"""The table of tiny models: which families exist, in which variants, and how each is made."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import transformers

from vtprune.core.errors import did_you_mean
from vtprune.testing.models.tiny import Attention, Tiny


@dataclass(frozen=True)
class Variant:
    """One tiny model.

    family: the adapter that serves it; architecture: its model class in transformers.
    target: the maker as ``"module:function"`` under ``vtprune.testing.models``, called with ``attn`` and the options.
    """

    family: str
    architecture: str
    target: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def available(self) -> bool:
        """Whether the installed transformers has the model class."""
        return hasattr(transformers, self.architecture)

    def make(self, attn: Attention = "sdpa") -> Tiny:
        """Build it (once; makers are cached)."""
        module, function = self.target.split(":")
        maker = getattr(importlib.import_module(f"vtprune.testing.models.{module}"), function)
        made: Tiny = maker(attn, **self.options)
        return made


VARIANTS: dict[str, Variant] = {
    "llava": Variant("llava", "LlavaForConditionalGeneration", "llava:tiny_llava"),
    "llava-mistral": Variant("llava", "LlavaForConditionalGeneration", "llava:tiny_llava", {"text": "mistral"}),
    "vipllava": Variant("vipllava", "VipLlavaForConditionalGeneration", "vipllava:tiny_vipllava"),
    "llava_next": Variant("llava_next", "LlavaNextForConditionalGeneration", "llava_next:tiny_llava_next"),
    "llava_next-llama": Variant(
        "llava_next", "LlavaNextForConditionalGeneration", "llava_next:tiny_llava_next", {"text": "llama"}
    ),
    "llava_next_video": Variant(
        "llava_next_video", "LlavaNextVideoForConditionalGeneration", "llava_next_video:tiny_llava_next_video"
    ),
    "llava_onevision": Variant(
        "llava_onevision", "LlavaOnevisionForConditionalGeneration", "llava_onevision:tiny_llava_onevision"
    ),
    "video_llava": Variant("video_llava", "VideoLlavaForConditionalGeneration", "video_llava:tiny_video_llava"),
    "qwen2_vl": Variant("qwen2_vl", "Qwen2VLForConditionalGeneration", "qwen2_vl:tiny_qwen2_vl"),
    "qwen2_5_vl": Variant("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl:tiny_qwen2_5_vl"),
    "qwen3_vl": Variant("qwen3_vl", "Qwen3VLForConditionalGeneration", "qwen3_vl:tiny_qwen3_vl"),
    "qwen3_vl-experts": Variant(
        "qwen3_vl", "Qwen3VLMoeForConditionalGeneration", "qwen3_vl:tiny_qwen3_vl", {"text": "experts"}
    ),
    "qwen3_5": Variant("qwen3_5", "Qwen3_5ForConditionalGeneration", "qwen3_5:tiny_qwen3_5"),
    "qwen3_5-experts": Variant(
        "qwen3_5", "Qwen3_5MoeForConditionalGeneration", "qwen3_5:tiny_qwen3_5", {"text": "experts"}
    ),
    "glm4v": Variant("glm4v", "Glm4vForConditionalGeneration", "glm4v:tiny_glm4v"),
    "glm4v-experts": Variant("glm4v", "Glm4vMoeForConditionalGeneration", "glm4v:tiny_glm4v", {"version": "4.5"}),
    "glm46v": Variant("glm4v", "Glm46VForConditionalGeneration", "glm4v:tiny_glm4v", {"version": "4.6"}),
    "glm_ocr": Variant("glm4v", "GlmOcrForConditionalGeneration", "glm4v:tiny_glm4v", {"version": "ocr"}),
    "video_llama_3": Variant(
        "video_llama_3", "VideoLlama3ForConditionalGeneration", "video_llama_3:tiny_video_llama_3"
    ),
    "paddleocr_vl": Variant("paddleocr_vl", "PaddleOCRVLForConditionalGeneration", "paddleocr_vl:tiny_paddleocr_vl"),
    "paligemma": Variant("paligemma", "PaliGemmaForConditionalGeneration", "paligemma:tiny_paligemma"),
    "paligemma2": Variant(
        "paligemma", "PaliGemmaForConditionalGeneration", "paligemma:tiny_paligemma", {"generation": 2}
    ),
    "gemma3": Variant("gemma3", "Gemma3ForConditionalGeneration", "gemma3:tiny_gemma3"),
    "gemma4": Variant("gemma4", "Gemma4ForConditionalGeneration", "gemma4:tiny_gemma4"),
    "gemma4-layer-inputs": Variant("gemma4", "Gemma4ForConditionalGeneration", "gemma4:tiny_gemma4", {"per_layer": 8}),
    "gemma4-shared": Variant(
        "gemma4",
        "Gemma4ForConditionalGeneration",
        "gemma4:tiny_gemma4",
        {"per_layer": 8, "shared": 2, "layer_types": ("sliding_attention", "full_attention") * 3},
    ),
    "gemma4-bidirectional": Variant(
        "gemma4", "Gemma4ForConditionalGeneration", "gemma4:tiny_gemma4", {"bidirectional": "vision"}
    ),
    "lfm2_vl": Variant("lfm2_vl", "Lfm2VlForConditionalGeneration", "lfm2_vl:tiny_lfm2_vl"),
    "internvl": Variant("internvl", "InternVLForConditionalGeneration", "internvl:tiny_internvl"),
    "idefics2": Variant("idefics2", "Idefics2ForConditionalGeneration", "idefics2:tiny_idefics2"),
    "idefics3": Variant("idefics3", "Idefics3ForConditionalGeneration", "idefics3:tiny_idefics3"),
    "smolvlm": Variant("idefics3", "SmolVLMForConditionalGeneration", "idefics3:tiny_idefics3", {"family": "smolvlm"}),
    "pixtral": Variant("pixtral", "LlavaForConditionalGeneration", "pixtral:tiny_pixtral"),
    "mistral3": Variant("mistral3", "Mistral3ForConditionalGeneration", "mistral3:tiny_mistral3"),
    "ovis2": Variant("ovis2", "Ovis2ForConditionalGeneration", "ovis2:tiny_ovis2"),
    "aria": Variant("aria", "AriaForConditionalGeneration", "aria:tiny_aria"),
    "aria-small-crops": Variant("aria", "AriaForConditionalGeneration", "aria:tiny_aria", {"size": 24}),
    "aya_vision": Variant("cohere_vision", "AyaVisionForConditionalGeneration", "cohere_vision:tiny_cohere_vision"),
    "aya_vision-window": Variant(
        "cohere_vision",
        "AyaVisionForConditionalGeneration",
        "cohere_vision:tiny_cohere_vision",
        {"sliding_window": 12},
    ),
    "cohere2_vision": Variant(
        "cohere_vision",
        "Cohere2VisionForConditionalGeneration",
        "cohere_vision:tiny_cohere_vision",
        {"family": "cohere2_vision"},
    ),
    "lighton_ocr": Variant("lighton_ocr", "LightOnOcrForConditionalGeneration", "lighton_ocr:tiny_lighton_ocr"),
    "got_ocr2": Variant("got_ocr2", "GotOcr2ForConditionalGeneration", "got_ocr2:tiny_got_ocr2"),
}


def variant(name: str) -> Variant:
    """The variant of that name; ValueError with the nearest name if there is none."""
    if name not in VARIANTS:
        raise ValueError(f"no tiny model {name!r}.{did_you_mean(name, VARIANTS)} There are {', '.join(VARIANTS)}")
    return VARIANTS[name]
