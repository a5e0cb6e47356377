"""What a report says was removed, hidden from the unmodified model: the reference that pruning is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vtprune.testing.reference import MaskedReference


def hidden(model: Any, report: Any, tokens: int) -> MaskedReference:
    """The reference of a report, for prompts padded to ``tokens``."""
    hide: dict[int, Tensor] = {}
    hide_kv: dict[int, Tensor] = {}
    for index, stage in enumerate(report.recipe.stages):
        for layer in sorted({event.layer for event in report.stage_events(index)}):
            evicts = stage.site.kind == "kv"
            heads = len(report.kv_tokens[0][layer]) if evicts else 1
            mask = torch.ones(len(report.layouts), heads, tokens, dtype=torch.bool)
            for sample, layout in enumerate(report.layouts):
                for head in range(heads):
                    mask[sample, head, layout.positions] = False
                    kept = report.kept(index, sample, layer, head if evicts else None)
                    mask[sample, head, layout.positions[kept]] = True
            if evicts:
                hide_kv[layer] = mask
            else:
                first = 0 if stage.site.is_tower else layer
                hide.update(dict.fromkeys(range(first, report.depth), mask[:, 0]))
    return MaskedReference(model, hide, hide_kv)


@contextmanager
def hidden_in_tower(model: Any, report: Any) -> Iterator[None]:
    """The whole tower, in which no patch sees those that a report says had left; one patch a token, sdpa attention."""
    layers = model.model.vision_model.encoder.layers
    (stage,) = report.recipe.stages
    (layer,) = {event.layer for event in report.stage_events(0)}
    assert stage.site.is_tower
    images = []
    for sample, layout in enumerate(report.layouts):
        kept = torch.zeros(layout.vision, dtype=torch.bool)
        kept[report.kept(0, sample, layer)] = True
        images += [kept[segment.start : segment.stop] for segment in layout.segments]
    mask = torch.stack(images)[:, None, None]  # [image, head, query, key]
    with ExitStack() as stack:
        for each in layers[layer:]:
            hook = partial(_with_mask, mask)
            stack.callback(each.self_attn.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _with_mask(mask: Tensor, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "attention_mask": mask.expand(-1, 1, mask.shape[-1], -1)}
