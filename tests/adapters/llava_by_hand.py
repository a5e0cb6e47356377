"""The LLaVA families read without vtprune: what the towers see and make, and which patches each token is made of.

Patches are found by content: the embedding that a vision token brings to the language model is compared with what the
projector makes of every patch (or every 2x2 square of patches), so that no knowledge of layouts enters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.exactness.helpers import Generated, generate, taken
from vtprune.testing.models import IMAGE, VIDEO, Inputs, Tiny
from vtprune.testing.models.families import variant

FAMILIES = ("llava", "vipllava", "llava_next", "llava_next_video", "llava_onevision", "video_llava")
WITH_VIDEO = ("llava_next_video", "llava_onevision", "video_llava")
BATCHES: dict[str, dict[str, Sequence[int]]] = {
    "images": {"images": (1, 2, 0, 1)},
    "videos": {"images": (0, 0), "videos": (1, 2)},
    "mixed": {"images": (1, 0, 2, 1), "videos": (1, 1, 0, 2)},
}
CASES = [(name, batch) for name in FAMILIES for batch in BATCHES if batch == "images" or name in WITH_VIDEO]
SEED = 3  # its images have different sizes


def tiny(name: str, attn: Any = "sdpa") -> Tiny:
    return variant(name).make(attn)


def prompt(name: str, batch: str) -> Inputs:
    return tiny(name).make_inputs(**BATCHES[batch], seed=SEED)


@cache
def plain(name: str, batch: str) -> tuple[Tensor, Generated]:
    """Logits of forward() and greedy generation of the unpruned model."""
    model, inputs = tiny(name).model, prompt(name, batch)
    with torch.no_grad():
        return model(**inputs).logits, generate(model, inputs)


@dataclass(frozen=True)
class Kind:
    """The images, or the videos, of a batch.

    embeddings: ``[token, dim]``, what their tokens bring to the language model, in prompt order.
    pictures: how many the tower reads.
    projected: what enters the projector of each picture, before any pooling, ``[patch, dim]`` over all pictures.
    attentions: of each tower layer ``[picture, head, query, key]``. first: keys of a picture before its first patch.
    patches: for each token the patches it is made of; none for a separator.
    """

    embeddings: Tensor
    pictures: int
    projected: Tensor
    attentions: tuple[Tensor, ...]
    first: int
    patches: list[list[int]]

    def seen(self, kept: Sequence[bool]) -> Tensor:
        """bool ``[picture, 1, 1, key]``: the rows of the tower that are there when only some tokens are."""
        each = len(self.projected) // self.pictures
        there = torch.ones(self.pictures, self.first + each, dtype=torch.bool)
        for rows, stays in zip(self.patches, kept, strict=True):
            for row in rows:
                there[row // each, self.first + row % each] = stays
        return there[:, None, None]

    def features(self) -> Tensor:
        """float ``[token, dim]``: the mean of each token's patches; zeros for separators."""
        zero = torch.zeros(self.projected.shape[1])
        return torch.stack([self.projected[rows].mean(0) if rows else zero for rows in self.patches])

    def attention(self, layer: int, query: str, *, has_cls: bool) -> Tensor:
        """float ``[head, token]``: mean attention paid to each token's patches; NaN for separators."""
        weights = self.attentions[layer]
        paid = weights[:, :, 0] if query == "cls" else weights[:, :, int(has_cls) :].mean(2)
        flat = torch.cat(list(paid[:, :, self.first :]), dim=-1)
        nothing = torch.full(flat.shape[:1], torch.nan)
        return torch.stack([flat[:, rows].mean(1) if rows else nothing for rows in self.patches], dim=1)


def kinds(name: str, inputs: Inputs) -> dict[int, Kind]:
    """By placeholder id what the eager model makes of a batch's images and videos."""
    return {token: _kind(name, inputs, token) for token in (IMAGE, VIDEO) if bool((inputs["input_ids"] == token).any())}


def _kind(name: str, inputs: Inputs, token: int) -> Kind:
    model: Any = tiny(name, "eager").model
    base, config = model.model, model.config
    tower = base.vision_tower if hasattr(base, "vision_tower") else base.image_tower
    if token == VIDEO and hasattr(base, "video_tower"):
        tower = base.video_tower
    merged = taken(base.language_model, lambda _, kwargs: kwargs["inputs_embeds"], lambda: model(**inputs))[0]
    embeddings = merged[inputs["input_ids"] == token]
    videos, stills = "pixel_values_videos" in inputs, bool((inputs["input_ids"] == IMAGE).any())
    seen = taken(tower, lambda args, kwargs: args[0] if args else kwargs["pixel_values"], lambda: model(**inputs))
    pixels = seen[1 if token == VIDEO and videos and stills and not hasattr(base, "video_tower") else 0]
    made = tower(pixels, output_hidden_states=True, output_attentions=True)
    chosen = getattr(config, "vision_feature_layer", None) or config.vision_feature_layers
    layers = [chosen] if isinstance(chosen, int) else chosen
    has_cls = "embeddings.class_embedding" in dict(tower.named_parameters())
    first = int(has_cls and not (token == VIDEO and name == "video_llava"))
    states = torch.cat([made.hidden_states[layer][:, first:] for layer in layers], dim=-1)
    candidates, found = _candidates(name, states, token, base.multi_modal_projector)
    distances = torch.cdist(embeddings, found, compute_mode="donot_use_mm_for_euclid_dist")
    nearest, at = distances.min(1)
    newline = getattr(base, "image_newline", torch.full(embeddings.shape[1:], torch.inf))
    is_newline = (embeddings == newline).all(1)
    assert bool((is_newline | (nearest < 1e-4)).all()), "every token is made of known patches, or is a separator"
    patches = [[] if end else candidates[int(row)] for row, end in zip(at, is_newline, strict=True)]
    return Kind(embeddings, len(states), states.flatten(0, 1), made.attentions, first, patches)


def _candidates(
    name: str, states: Tensor, token: int, project: Callable[[Tensor], Tensor]
) -> tuple[list[list[int]], Tensor]:
    """What a token can be made of, and the embeddings ``[candidate, dim]`` it would have."""
    pictures, count, _ = states.shape
    flat = states.flatten(0, 1)
    if token == IMAGE or name == "video_llava":
        return [[row] for row in range(len(flat))], project(flat)
    side = round(count**0.5)
    squares = [
        [picture * count + (top + down) * side + left + right for down in (0, 1) for right in (0, 1)]
        for picture in range(pictures)
        for top in range(0, side, 2)
        for left in range(0, side, 2)
    ]
    if name == "llava_next_video":
        return squares, project(torch.stack([flat[rows].mean(0) for rows in squares]))
    return squares, torch.stack([project(flat[rows]).mean(0) for rows in squares])


def by_sample(values: dict[int, Tensor], inputs: Inputs, axis: int) -> list[Tensor]:
    """Values of the tokens of each placeholder, in prompt order, put together sample by sample."""
    taken_so_far = dict.fromkeys(values, 0)
    rows = []
    for ids in inputs["input_ids"]:
        row = []
        for token in ids.tolist():
            if token in values:
                row.append(values[token].select(axis, taken_so_far[token]))
                taken_so_far[token] += 1
        rows.append(torch.stack(row, axis) if row else torch.empty(0))
    return rows
