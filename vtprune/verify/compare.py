"""What a run gave, and when two runs agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-5
"""Largest difference of a logit, in float32."""
AMPLIFIED = 1e-4
"""The same where a decoder layer is linear attention, which amplifies rounding: 31 more tokens of padding before a
prompt move the logits of the unhooked tiny Qwen3.5 by 1.1e-5."""
EFFECT = 100 * TOLERANCE
"""What removing tokens must change at least; less could not be told from no removal at all."""
RELATIVE = 1e-4
"""Of gradients, besides the absolute tolerance."""
LEAST_COMPARED = 0.3


class Disagreement(Exception):
    """Two runs that should agree do not; the message says where and by how much."""


@dataclass(frozen=True)
class Seen:
    """What one run gave; what a mode does not make is None.

    forward: logits of a call of the model, float ``[batch, token, vocabulary]``.
    tokens: generated ids, int64 ``[row, step]``; logits: those that chose them, float ``[step, row, vocabulary]``.
    gradients: of parameters and pixels, by name.
    tied: whether a token may differ where the two best logits tie within the tolerance (greedy generation).
    """

    forward: Tensor | None = None
    tokens: Tensor | None = None
    logits: Tensor | None = None
    gradients: dict[str, Tensor] = field(default_factory=dict)
    tied: bool = True


def tolerance_of(model: Any) -> float:
    """Largest difference of a logit of this model in float32."""
    amplifies = any(hasattr(layer, "linear_attn") for layer in model.get_decoder().layers)
    return AMPLIFIED if amplifies else TOLERANCE


def distance(one: Tensor, other: Tensor) -> float:
    """Largest absolute difference; 0 of nothing. Raises Disagreement if the shapes differ or a number is not finite."""
    if one.shape != other.shape:
        raise Disagreement(f"shape {tuple(one.shape)} instead of {tuple(other.shape)}")
    if not one.numel():
        return 0.0
    largest = float((one.float() - other.float()).abs().max())
    if largest != largest or largest == float("inf"):
        raise Disagreement("logits that are not finite")
    return largest


def check_identical(one: Seen, other: Seen, what: str) -> None:
    """Raise Disagreement unless every bit is equal."""
    for name in ("forward", "tokens", "logits"):
        left, right = getattr(one, name), getattr(other, name)
        if (left is None) != (right is None) or (left is not None and not torch.equal(left, right)):
            by = "" if left is None or right is None else f" by {distance(left, right):.1e}"
            raise Disagreement(f"{what}: {name} differ{by}")
    for name in one.gradients.keys() | other.gradients.keys():
        _check_gradient(name, one.gradients.get(name), other.gradients.get(name), what)


def check_agree(one: Seen, other: Seen, what: str, rows: Tensor | None = None, tolerance: float = TOLERANCE) -> None:
    """Raise Disagreement unless logits agree within the tolerance, tokens are equal and gradients are close.

    rows: bool ``[batch, token]``, where the logits of ``forward`` mean something; None is everywhere.
    Where the two best logits of a row tie within the tolerance, rounding may choose either of them: greedy generations
    are compared up to there, and enough steps must have been compared.
    """
    if one.forward is not None and other.forward is not None:
        where = slice(None) if rows is None else rows
        _within(distance(one.forward[where], other.forward[where]), tolerance, f"{what}: logits of the prompt")
    if one.logits is not None and other.logits is not None:
        _check_steps(one, other, what, tolerance)
    elif one.tokens is not None and other.tokens is not None and not torch.equal(one.tokens, other.tokens):
        raise Disagreement(f"{what}: other tokens")
    for name in one.gradients.keys() | other.gradients.keys():
        _check_gradient(name, one.gradients.get(name), other.gradients.get(name), what)


def _check_steps(one: Seen, other: Seen, what: str, tolerance: float) -> None:
    assert one.logits is not None
    assert other.logits is not None
    assert one.tokens is not None
    assert other.tokens is not None
    if not one.tied or not other.tied:
        if not torch.equal(one.tokens, other.tokens):
            raise Disagreement(f"{what}: other tokens")
        _within(distance(one.logits, other.logits), tolerance, f"{what}: logits of the steps")
        return
    if one.tokens.shape != other.tokens.shape:
        raise Disagreement(f"{what}: tokens of shape {tuple(one.tokens.shape)}, not {tuple(other.tokens.shape)}")
    compared = 0
    for row in range(len(one.tokens)):
        for step, (chosen, expected) in enumerate(zip(one.tokens[row], other.tokens[row], strict=True)):
            _within(distance(one.logits[step, row], other.logits[step, row]), tolerance, f"{what}: step {step}")
            compared += 1
            if chosen != expected:
                lead = float(other.logits[step, row, expected] - other.logits[step, row, chosen])
                _within(lead, tolerance, f"{what}: other token at step {step}, whose logit is behind")
                break
    if compared < LEAST_COMPARED * one.tokens.numel():
        raise Disagreement(f"{what}: ties left only {compared} of {one.tokens.numel()} steps to compare")


def _check_gradient(name: str, one: Tensor | None, other: Tensor | None, what: str) -> None:
    if one is None or other is None:
        left = one if one is not None else other
        if left is not None and bool(left.any()):
            raise Disagreement(f"{what}: gradient of {name} is missing on one side")
        return
    if not torch.allclose(one, other, rtol=RELATIVE, atol=TOLERANCE):
        raise Disagreement(f"{what}: gradient of {name} differs by {distance(one, other):.1e}")


def _within(value: float, tolerance: float, what: str) -> None:
    if not value <= tolerance:
        raise Disagreement(f"{what} by {value:.1e}, more than {tolerance:.1e}")


def effect(one: Seen, other: Seen, rows: Tensor | None) -> float:
    """Largest difference in what both runs gave: prompt logits where they mean something, steps, or gradients."""
    found = [0.0]
    if one.forward is not None and other.forward is not None:
        where = slice(None) if rows is None else rows
        found.append(distance(one.forward[where], other.forward[where]))
    if one.logits is not None and other.logits is not None:
        steps = min(len(one.logits), len(other.logits))
        found.append(distance(one.logits[:steps], other.logits[:steps]))
    elif one.tokens is not None and other.tokens is not None:
        found.append(float(not torch.equal(one.tokens, other.tokens)))
    return max(found)
