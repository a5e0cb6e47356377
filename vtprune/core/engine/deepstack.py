"""DeepStack (arXiv 2406.04334): features of earlier vision layers, added to the vision tokens between decoder layers.

Qwen3-VL's text model does so after each of its first layers, at the places that a mask of the whole prompt names. Once
tokens were dropped, mask and features are cut down to the survivors; while nothing was, the model's own call is made
untouched. The addition itself stays the model's, outside of what gradient checkpointing repeats.

A token that others were merged into receives the features of its own patches only, as if it had been kept plainly:
what is merged are hidden states, in which the additions made so far are already contained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.core.engine.flow import Flow
from vtprune.core.engine.replacing import replaced

METHOD = "_deepstack_process"


@contextmanager
def in_step(language_model: nn.Module, current: Callable[[], Flow | None]) -> Iterator[None]:
    """Keep a text model's additions in step with what is dropped; no effect on models that make none.

    current: the state of the forward that runs.
    """
    original: Callable[..., Tensor] | None = getattr(language_model, METHOD, None)
    if original is None:
        yield
        return

    def process(hidden_states: Tensor, visual_pos_masks: Tensor, visual_embeds: Tensor) -> Tensor:
        flow = current()
        if flow is not None and flow.index is not None:
            visual_pos_masks, visual_embeds = survivors(flow, visual_pos_masks, visual_embeds)
        return original(hidden_states, visual_pos_masks, visual_embeds)

    with replaced(language_model, METHOD, process):
        yield


def survivors(flow: Flow, mask: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Where the remaining vision tokens stand in the compact rows, bool ``[batch, token]``, and their features.

    mask: bool ``[batch, token]`` over the tokens as they came; features: float ``[vision, dim]``, those of all samples
    in order of the mask.
    """
    mask = mask.to(flow.device)
    rank = (mask.flatten().cumsum(0) - 1).view_as(mask)
    left = flow.gather(mask)
    return left, features[flow.gather(rank)[left].to(features.device)]


def repeated(output: Any, sizes: Sequence[int], index: Sequence[int]) -> None:
    """Give back, in place, the DeepStack features of images that were encoded only once.

    output: of ``get_image_features``; sizes: tokens of each distinct image; index: for every image its distinct one.
    transformers up to 5.17 returns one tensor per decoder layer, later versions one tuple of images.
    """
    layers: list[Any] | None = getattr(output, "deepstack_features", None)
    if layers is None:
        return
    for layer, features in enumerate(layers):
        images = features.split(list(sizes)) if isinstance(features, Tensor) else features
        chosen = tuple(images[image] for image in index)
        layers[layer] = torch.cat(chosen) if isinstance(features, Tensor) else chosen
