"""The built-in plugin: what vtprune ships, registered through the hook that third parties use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtprune.core.plugins import hookimpl

if TYPE_CHECKING:
    from vtprune.core.plugins import Registrar

SCORERS = {
    "attention": ("attention:Attention", "attention that chosen text queries pay to each vision token"),
    "cls_attention": ("cls_attention:ClsAttention", "attention of the vision tower's CLS token to each patch"),
    "similarity": ("similarity:Similarity", "cosine similarity to a text embedding or to the mean vision token"),
    "key_norm": ("key_norm:KeyNorm", "norm of each token's key"),
    "random": ("random:Random", "pseudo-random scores, seeded per sample"),
    "uniform_grid": ("uniform_grid:UniformGrid", "a strided grid over each image"),
    "oracle": ("oracle:Oracle", "what the caller says of each token: an upper reference, not a method"),
    "weighted_sum": ("combine:WeightedSum", "weighted sum of other scorers"),
    "product": ("combine:Product", "product of other scorers"),
    "normalise": ("normalise:Normalise", "another scorer, normalised per sample (min-max, softmax, rank, z-score)"),
    "negate": ("normalise:Negate", "another scorer with its order reversed"),
}
ALLOCATORS = {
    "uniform": ("uniform:Uniform", "the same count in every layer and head", None),
    "reattention": (
        "reattention:Reattention",
        "three retention levels by each layer's vision attention",
        "arXiv 2502.14504",
    ),
    "schedule": ("schedule:Schedule", "a per-layer table, or a linear, geometric or sigmoid decay", None),
}
SELECTORS = {
    "top_k": ("top_k:TopK", "the highest scores", None),
    "threshold": ("threshold:Threshold", "every score above a threshold", None),
    "top_p": ("threshold:TopP", "the smallest set that holds a share of the score mass", None),
    "greedy_suppression": (
        "suppression:GreedySuppression",
        "highest scores, near-duplicates suppressed",
        "arXiv 2506.13166",
    ),
    "max_min": ("max_min:MaxMin", "greedy max-min distance: the most diverse set", "arXiv 2503.02175"),
    "facility_location": (
        "facility_location:FacilityLocation",
        "greedy coverage of all tokens, weighted by scores",
        None,
    ),
    "log_det": ("log_det:LogDet", "greedy log-determinant (DPP MAP), weighted by scores", None),
    "union": ("union:Union", "one selector for a share of the count, another one for the rest", None),
}
REDUCERS = {
    "drop": ("drop:Drop", "remove the rest from the sequence"),
    "evict_kv": ("evict_kv:EvictKV", "remove the rest from the KV cache after the prompt"),
    "merge": ("merge:Merge", "average the rest into the nearest kept token, then remove it"),
}
ADAPTERS = {
    "llava": ("llava:ADAPTER", "LLaVA-1.5 (CLIP tower with CLS, MLP projector, 1-D RoPE)"),
    "vipllava": ("vipllava:ADAPTER", "VIP-LLaVA (LLaVA-1.5 with features of several tower layers)"),
    "llava_next": ("llava_next:ADAPTER", "LLaVA-NeXT / LLaVA-1.6 (tiles, newline tokens)"),
    "llava_next_video": ("llava_next_video:ADAPTER", "LLaVA-NeXT-Video (tiles, newline tokens, pooled frames)"),
    "llava_onevision": (
        "llava_onevision:ADAPTER",
        "LLaVA-OneVision (SigLIP tower, tiles, newline tokens, halved frames)",
    ),
    "video_llava": ("video_llava:ADAPTER", "Video-LLaVA (a tower for images, another for videos)"),
    "qwen2_vl": ("qwen2_vl:ADAPTER", "Qwen2-VL (2x2 merger, M-RoPE)"),
    "qwen2_5_vl": ("qwen2_5_vl:ADAPTER", "Qwen2.5-VL (window attention, 2x2 merger, M-RoPE)"),
    "qwen3_vl": ("qwen3_vl:ADAPTER", "Qwen3-VL, dense and with experts (DeepStack, 2x2 merger, M-RoPE)"),
    "qwen3_5": ("qwen3_5:ADAPTER", "Qwen3.5, dense and with experts (gated delta nets among the decoder layers)"),
    "glm4v": ("glm4v:ADAPTER", "GLM-4.1V, GLM-4.5V, GLM-4.6V and GLM-OCR (convolution and merger, M-RoPE)"),
    "video_llama_3": ("video_llama_3:ADAPTER", "VideoLLaMA3 (packed tower, pooled by each image's own factor)"),
    "paddleocr_vl": ("paddleocr_vl:ADAPTER", "PaddleOCR-VL (packed tower, 2x2 projector, M-RoPE)"),
    "internvl": ("internvl:ADAPTER", "InternVL 2.5 to 3.5 (CLS token, pixel shuffle, crops)"),
    "paligemma": ("paligemma:ADAPTER", "PaliGemma and PaliGemma 2 (prompt attends in both directions)"),
    "gemma3": ("gemma3:ADAPTER", "Gemma 3 (average pooling, sliding and full layers)"),
    "gemma4": ("gemma4:ADAPTER", "Gemma 4 (pooling by place, per-layer inputs, shared keys and values)"),
    "lfm2_vl": ("lfm2_vl:ADAPTER", "LFM2-VL (pixel unshuffle, convolutions among the decoder layers)"),
    "mllama": ("mllama:ADAPTER", "Llama 3.2 Vision: refused (cross-attention; no vision token in the sequence)"),
    "idefics2": ("idefics2:ADAPTER", "Idefics2 (perceiver resampler: no grid, no map to patches)"),
    "idefics3": ("idefics3:ADAPTER", "Idefics3 and SmolVLM (pixel shuffle, crops)"),
    "pixtral": ("pixtral:ADAPTER", "Pixtral (LLaVA's architecture with a packed Pixtral tower)"),
    "mistral3": ("mistral3:ADAPTER", "Mistral Small 3.1 and later (packed Pixtral tower, 2x2 merger)"),
    "ovis2": ("ovis2:ADAPTER", "Ovis2 (visual vocabulary, merger in the tower, crops)"),
    "aria": ("aria:ADAPTER", "Aria (cross-attention projector: no grid, no map to patches; mixture of experts)"),
    "cohere_vision": ("cohere_vision:ADAPTER", "Aya Vision, Command A Vision (pixel shuffle, sliding windows)"),
    "lighton_ocr": ("lighton_ocr:ADAPTER", "LightOnOCR (packed Pixtral tower, 2x2 merger)"),
    "got_ocr2": ("got_ocr2:ADAPTER", "GOT-OCR 2.0 (convolutional projector: no map to patches)"),
}
RECIPES = {
    "plphp": ("per-layer retention and per-head KV pruning", "arXiv 2502.14504"),
    "greedyprune": ("text similarity with suppression of near-duplicates", "arXiv 2506.13166"),
    "fastv": ("attention of the last token at layer 1, dropped at layer 2", "arXiv 2403.06764"),
    "divprune": ("max-min diversity of projected tokens", "arXiv 2503.02175"),
    "random": ("baseline: random tokens, before the language model", None),
    "uniform_grid": ("baseline: a strided grid, before the language model", None),
}
TASKS = {
    "testbed": ("vtprune.testbed.tasks:Testbed", "made-up scenes of handwritten digits, with where each answer is"),
    "jsonl": ("vtprune.tasks.jsonl:Jsonl", "questions and pictures of one's own: a folder with questions.jsonl"),
}


@hookimpl
def vtprune_register(registrar: Registrar) -> None:
    """Register every built-in by name; nothing is imported until it is used."""
    for name, (target, summary) in SCORERS.items():
        registrar.add("scorer", name, f"vtprune.scorers.{target}", summary=summary)
    for name, (target, summary, paper) in ALLOCATORS.items():
        registrar.add("allocator", name, f"vtprune.allocators.{target}", summary=summary, paper=paper)
    for name, (target, summary, paper) in SELECTORS.items():
        registrar.add("selector", name, f"vtprune.selectors.{target}", summary=summary, paper=paper)
    for name, (target, summary) in REDUCERS.items():
        registrar.add("reducer", name, f"vtprune.reducers.{target}", summary=summary)
    for name, (target, summary) in ADAPTERS.items():
        registrar.add("adapter", name, f"vtprune.adapters.{target}", summary=summary)
    for name, (summary, paper) in RECIPES.items():
        registrar.add("recipe", name, f"vtprune.recipes:{name}.yaml", summary=summary, paper=paper)
    for name, (target, summary) in TASKS.items():
        registrar.add("task", name, target, summary=summary)
