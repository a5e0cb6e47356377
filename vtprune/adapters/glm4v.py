"""GLM-4.1V (arXiv 2507.01006), GLM-4.5V, GLM-4.6V and GLM-OCR: a strided convolution and a merger after the tower.

The convolution makes one row of four patches, so `vision.output` has one row per token, while the tower's layers have
four. The frames of a video are images between video tokens, each followed by its timestamp; they use the images'
placeholder, so a call cannot hold both images and videos. With beams, transformers 5.23 gives the copies of a sample
one another's images where it has several, and fails on videos; neither has to do with pruning.
"""

from __future__ import annotations

from vtprune.adapters.qwen_like import packed
from vtprune.adapters.rows import one_row_each

ADAPTER = packed(
    name="glm4v",
    summary="GLM-4.1V, GLM-4.5V, GLM-4.6V and GLM-OCR",
    architectures=(
        "Glm4vForConditionalGeneration",
        "Glm4vMoeForConditionalGeneration",
        "Glm46VForConditionalGeneration",
        "GlmOcrForConditionalGeneration",
    ),
    placeholders={"image": "image_token_id"},
    projector_rows=one_row_each,
    mergers=("visual.downsample",),
)
