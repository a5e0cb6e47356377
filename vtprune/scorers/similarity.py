"""Cosine similarity of each vision token to one reference vector."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator
from torch import Tensor
from torch.nn.functional import normalize

from vtprune.core.component import Scorer
from vtprune.core.signals import Need, Signals, TextTokens


class Similarity(Scorer):
    """Cosine similarity of each vision token's features x_i to a text embedding or to the mean vision token::

        score[i] = <x_i, r> / (|x_i| |r|),   r = text embedding, or mean_i x_i

    GreedyPrune (arXiv 2506.13166) ranks by similarity to the text. The mean runs over the surviving tokens of the
    whole sample, all images together, which is our choice; put it in `negate` to prefer tokens far from the mean.

    to: what to compare with. text: which text tokens make the embedding (their mean); acts only with ``to: text``.
    """

    to: Literal["text", "mean"] = "text"
    text: TextTokens = "last"

    @model_validator(mode="after")
    def _text_only_with_text(self) -> Similarity:
        if self.to == "mean" and self.text != "last":
            raise ValueError(f"text: {self.text} acts only with to: text, but to is mean; remove one of them")
        return self

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(), cls(text="text_after_vision"), cls(to="mean"))

    def needs(self) -> frozenset[Need]:
        features = frozenset({Need("features")})
        return features | {Need("text", self.text)} if self.to == "text" else features

    def score(self, signals: Signals) -> Tensor:
        """float32 ``[batch, vision]`` in [-1, 1] up to rounding; 0 where either vector is zero."""
        features = signals.features().float()
        reference = signals.text(self.text).float() if self.to == "text" else features.mean(dim=1)
        return (normalize(features, dim=-1) * normalize(reference, dim=-1).unsqueeze(1)).sum(dim=-1)
