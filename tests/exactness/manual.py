"""A second, slower reference: decoder layers run by hand, without a cache, one sample at a time.

Any change between two layers (other tokens, other positions, other hidden states) can be written down as it is defined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.exactness.helpers import Generated, taken
from vtprune.testing.models import Inputs

State = tuple[Tensor, Tensor]
"""hidden ``[1, token, dim]`` and rotary positions ``[axis, 1, token]`` (1-D RoPE has one axis)."""


def prompt_states(model: Any, inputs: Inputs) -> list[State]:
    """Embeddings and rotary positions of every sample's prompt, without its padding."""
    language = model.model.language_model
    embeddings: list[Tensor] = []
    taken_positions = taken(
        language.rotary_emb,
        lambda args, kwargs: args[1] if len(args) > 1 else kwargs["position_ids"],
        lambda: embeddings.extend(taken(language, lambda _, kwargs: kwargs["inputs_embeds"], _prefill(model, inputs))),
    )
    positions = taken_positions[0] if taken_positions[0].dim() == 3 else taken_positions[0][None]
    states = []
    for sample, real in enumerate(inputs["attention_mask"].bool()):
        row = positions.expand(-1, len(inputs["input_ids"]), -1)[:, sample : sample + 1, real]
        states.append((embeddings[0][sample : sample + 1, real], row))
    return states


def _prefill(model: Any, inputs: Inputs) -> Callable[[], object]:
    return lambda: model.generate(**inputs, max_new_tokens=1, do_sample=False)


def layers_by_hand(model: Any, state: State, between: Callable[[int, State], State]) -> Tensor:
    """Logits ``[vocabulary]`` of the last token; ``between(layer, state)`` gives the state that enters each layer."""
    language = model.model.language_model
    hidden, positions = state
    for index, layer in enumerate(language.layers):
        hidden, positions = between(index, (hidden, positions))
        count = hidden.shape[1]
        mask = torch.full((count, count), torch.finfo(hidden.dtype).min).triu(1)[None, None]
        rotary = language.rotary_emb(hidden, positions if positions.shape[0] > 1 else positions[0])
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, use_cache=False)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    return model.lm_head(language.norm(hidden[:, -1]))[0]


def decode_by_hand(model: Any, prompt: State, steps: int, between: Callable[[int, State], State]) -> Generated:
    """Greedy decoding that recomputes everything at each step. New tokens stand one position after the last."""
    embed = model.get_input_embeddings()
    state, tokens, logits = prompt, [], []
    for _ in range(steps):
        logits.append(layers_by_hand(model, state, between))
        tokens.append(logits[-1].argmax())
        hidden, positions = state
        following = (positions.amax() + 1).expand(positions.shape[0], 1, 1)
        state = (torch.cat([hidden, embed(tokens[-1])[None, None]], 1), torch.cat([positions, following], 2))
    return Generated(torch.stack(tokens)[None], torch.stack(logits)[:, None], None)


def only_row(generated: Generated, row: int) -> Generated:
    """One row of a generation."""
    return Generated(generated.tokens[row : row + 1], generated.logits[:, row : row + 1], None)


def choosing(first: int, prompt: int, kept: Tensor, *, reindex: bool) -> Callable[[int, State], State]:
    """A ``between`` that drops tokens on entering layer ``first``.

    prompt: tokens of the prompt; kept: which of them stay, in order; what comes after the prompt stays. With
    ``reindex`` the survivors stand at consecutive positions, equal on all axes, from the first one's on.
    """

    def between(layer: int, state: State) -> State:
        if layer != first:
            return state
        hidden, positions = state
        rows = torch.cat([kept, torch.arange(prompt, hidden.shape[1])])
        chosen = positions[:, :, rows]
        if reindex:
            chosen = (chosen[0, 0, 0] + torch.arange(len(rows))).expand_as(chosen)
        return hidden[:, rows], chosen

    return between
