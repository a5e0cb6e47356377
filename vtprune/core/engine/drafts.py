"""Assisted generation at a stage that evicts from the cache.

The first forward of assisted generation brings the prompt and a few draft tokens. The prompt is read in full, but a
draft stands for a token that plain decoding would have computed *after* the eviction, so it must see only what is kept.
The attention call is split in two: the prompt's rows as ever, then the few draft rows with a mask per KV head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Any]


def attend(
    kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, keep: Tensor, drafts: int
) -> tuple[Tensor, None]:
    """Attention of prompt and drafts when only ``keep`` survives the prompt.

    query: ``[batch, head, token, dim]``; key, value: ``[batch, kv_head, key, dim]``; mask: None (causal) or
    ``[batch, 1|head, token, key]``; keep: bool ``[batch, kv_head, key]``; drafts: how many of the last rows are drafts.
    Returns ``[batch, token, head, dim]`` and no weights, as a kernel of transformers does.
    """
    prompt = query.shape[2] - drafts
    prompt_mask = None if mask is None else mask[:, :, :prompt, :-drafts]
    first = kernel(query[:, :, :prompt], key[:, :, :-drafts], value[:, :, :-drafts], prompt_mask)[0]
    groups = query.shape[1] // key.shape[1]
    kept = keep.to(key.device).repeat_interleave(groups, 1)[:, :, None, :]
    if mask is None:
        keys = torch.arange(key.shape[2], device=query.device)
        seen = keys <= keys[-drafts:, None]
        draft_mask = seen & kept
    elif mask.dtype == torch.bool:
        draft_mask = mask[:, :, prompt:] & kept
    else:
        draft_mask = mask[:, :, prompt:].masked_fill(~kept, torch.finfo(mask.dtype).min)
    second = kernel(query[:, :, prompt:], key, value, draft_mask)[0]
    return torch.cat([first, second], dim=1), None
