"""One forward pass over packed questions, the losses beside it, and the accuracy by question type."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.testbed.attention import pack
from training.testbed.data import IGNORED, PATCH_COLUMN, PATCH_ROW, Batch, draw
from training.testbed.device import CPU, Compute
from training.testbed.families import SIDE, TOKENS, Family
from vtprune.testbed.scenes import LEVELS
from vtprune.testbed.sequences import Kind

READ_AFTER = 2


class Heads(nn.Module):
    """Linear readers of dense labels; they are thrown away after training.

    `patch` reads digit (11), colour (9), row (12) and column (12) from the tower's features and from the language
    model's image tokens after layer `READ_AFTER`; `scene` reads which (digit, colour) are there from the CLS token.
    widths: `Family.widths`.
    """

    row: Tensor
    column: Tensor

    def __init__(self, widths: tuple[int, int]) -> None:
        super().__init__()
        self.sizes = (11, 9, SIDE, SIDE)
        self.norm = nn.ModuleList([nn.LayerNorm(width) for width in widths])
        self.patch = nn.ModuleList([nn.Linear(width, sum(self.sizes)) for width in widths])
        self.scene = nn.Linear(widths[0], 80)
        self.register_buffer("row", PATCH_ROW, persistent=False)
        self.register_buffer("column", PATCH_COLUMN, persistent=False)

    def dense(
        self, place: int, features: Tensor, batch: Batch, *, position: bool, look: bool = True
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss on features `[image, patch, dim]` of the tower (place 0) or the language model (1), and the shares that
        are right (nothing without `look`: to read them is to wait for the device)."""
        parts = self.patch[place](self.norm[place](features)).float().split(self.sizes, -1)
        count = len(features)
        targets = (batch.digit, batch.color, self.row.expand(count, -1), self.column.expand(count, -1))
        weights = (1.0, 1.0, 0.3 * position, 0.3 * position)
        loss = torch.zeros((), device=features.device)
        for part, target, weight in zip(parts, targets, weights, strict=True):
            if weight:
                loss = loss + weight * F.cross_entropy(part.flatten(0, 1), target.flatten())
        if not look:
            return loss, {}
        on = batch.digit < 10
        seen = {
            "digit": (parts[0].argmax(-1) == batch.digit)[on].float().mean().item(),
            "color": (parts[1].argmax(-1) == batch.color)[on].float().mean().item(),
            "row": (parts[2].argmax(-1) == self.row).float().mean().item(),
        }
        return loss, seen

    def presence(self, cls: Tensor, batch: Batch) -> Tensor:
        """Loss of the (digit, colour) pairs read from CLS `[image, dim]`."""
        return F.binary_cross_entropy_with_logits(self.scene(cls).float(), batch.pairs)


@dataclass(frozen=True)
class Pass:
    """logits `[prompt, word, vocabulary]`; the tower's features, the language model's image tokens after `READ_AFTER`
    layers (`[image, vision, dim]`; None if tokens were dropped) and CLS `[image, dim]` (None for a tower without)."""

    logits: Tensor
    features: Tensor
    inner: Tensor | None
    cls: Tensor | None


def forward(family: Family, model: PreTrainedModel, batch: Batch, kind: Kind, keep: Tensor | None = None) -> Pass:
    """keep: bool `[prompt, prefix]`, equally many per prompt: the tokens of the prefix that are left, at their
    original positions."""
    prompts = len(batch.words)
    given, features, cls = family.see(model, batch.frames, kind)
    text, prompt = model.model.language_model, family.prompt(model, kind, batch.words.device)
    prefix = text.embed_tokens(prompt.ids).expand(prompts, -1, -1).clone()
    prefix[:, prompt.is_image] = given.reshape(prompts, -1, given.shape[-1]).to(prefix.dtype)
    axes = len(prompt.positions)
    before = prompt.positions[:, None].expand(-1, prompts, -1)
    if keep is not None:
        prefix = prefix[keep].unflatten(0, (prompts, -1))
        before = before[:, keep].unflatten(1, (prompts, -1))
    after = (prompt.start + batch.offset).expand(axes, -1, -1)
    positions = torch.cat([before, after], -1)
    hidden = torch.cat([prefix, text.embed_tokens(batch.words)], 1)
    rope = text.rotary_emb(hidden, positions if axes > 1 else positions[0])
    length = prefix.shape[1]
    mask, inner = pack(length, batch.segment), None
    for index, layer in enumerate(text.layers):
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rope)
        if index + 1 == READ_AFTER and keep is None:
            inner = hidden[:, :length][:, prompt.is_image].reshape(-1, TOKENS, hidden.shape[-1])
    return Pass(model.lm_head(text.norm(hidden[:, length:])), features, inner, cls)


def answered(logits: Tensor, batch: Batch) -> list[list[bool]]:
    """Per prompt and question: whether every word of the answer and the end were predicted (teacher-forced)."""
    right = ((logits.argmax(-1) == batch.labels) | (batch.labels == IGNORED)).cpu()
    rows = []
    for row, segment, questions in zip(right, batch.segment.cpu(), batch.questions, strict=True):
        wrong = torch.zeros(len(questions) + 1).index_add(
            0, segment.clamp_min(-1) % (len(questions) + 1), (~row).float()
        )
        rows.append((wrong[: len(questions)] == 0).tolist())
    return rows


def by_type(results: list[tuple[Batch, list[list[bool]]]]) -> dict[str, float]:
    """Accuracy of each question type and, as ``all``, of the whole."""
    found: dict[str, list[bool]] = defaultdict(list)
    for batch, rows in results:
        for questions, row in zip(batch.questions, rows, strict=True):
            for question, right in zip(questions, row, strict=True):
                found[question.type].append(right)
                found["all"].append(right)
    return {name: float(np.mean(values)) for name, values in sorted(found.items())}


@torch.no_grad()
def evaluate(
    family: Family, model: PreTrainedModel, kind: Kind, compute: Compute = CPU, prompts: int = 256
) -> dict[str, float]:
    """Accuracy by type on held-out digits (a quick look; the model card's figures come from `generate`)."""
    rng = np.random.default_rng(77)
    results = []
    for _ in range(prompts // 16):
        drawn = draw(rng, kind, 16, 16 if kind == "image" else 4, level=LEVELS["medium"], split="test")
        batch = drawn.to(compute.device)
        with compute.autocast():
            results.append((batch, answered(forward(family, model, batch, kind).logits, batch)))
    return by_type(results)
