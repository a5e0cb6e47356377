"""Why a stage cannot act inside a vision tower; asked while a recipe is bound to a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vtprune.core.adapter import Parts
from vtprune.core.recipe import Stage
from vtprune.core.signals import Need


def no_tower_site(stage: Stage, parts: Parts) -> str | None:
    """Why this model has no site inside its vision tower, or None."""
    adapter = parts.adapter
    if adapter.tower_depth is not None and parts.vision_layers:
        return None
    if adapter.tower_rows is None:
        reason = "no token of this family is made of certain patches (a resampler reads all of them)"
    else:
        reason = (
            "it does not declare tower_depth, that is, that its vision layers run on [image, patch, dim] with full "
            "attention (packed sequences and windows are laid out for every patch)"
        )
    return (
        f"adapter {adapter.name!r} does not let tokens leave between vision layers, so {stage.site} is not a site of "
        f"this model: {reason}. Use vision.output or projector.output"
    )


def layer_faults(stage: Stage, layers: Sequence[int], parts: Parts) -> Iterator[str]:
    """Why a stage cannot act at its vision layers."""
    assert parts.adapter.tower_depth is not None
    useful = parts.adapter.tower_depth(parts.model)
    if late := [layer for layer in layers if layer >= useful]:
        yield (
            f"{stage.site}: this {type(parts.model).__name__} uses the tower's features after layer {useful - 1} of "
            f"{len(parts.vision_layers)}, so dropping on entering layer {late[0]} would have no effect; the last "
            f"useful site is vision.layers[{useful - 1}], or use vision.output"
        )


def need_faults(need: Need, stage: Stage, layers: Sequence[int], parts: Parts) -> Iterator[str]:
    """Why a signal cannot be had inside the tower, beyond what holds at every site before the language model."""
    if need.kind == "text":
        yield f"text embeddings do not live in the space of {stage.site}; use projector.output or llm.layers[i]"
    elif need.kind == "annotation":
        yield (
            f"annotations belong to a sample's prompt, which is not known while the vision tower runs; use "
            f"projector.output, which {stage.site} comes before"
        )
    elif need.kind == "vision_attention" and need.layer is not None and parts.vision_layers:
        depth = len(parts.vision_layers)
        if -depth <= need.layer < depth and need.layer % depth >= layers[0]:
            ran = f"the latest is {layers[0] - 1}" if layers[0] else "none has"
            yield (
                f"vision layer {need.layer % depth} has not run when {stage.site} is reached; {ran}. Set the layer to "
                f"an earlier one, or use a later site"
            )
