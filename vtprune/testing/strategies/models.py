"""Tiny models of the shipped families, and inputs for one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from vtprune.testing.adapter_suite.subject import AdapterSubject
    from vtprune.testing.models.tiny import Inputs, Tiny

QUICK = ("llava", "qwen2_5_vl", "llava_next", "internvl")
"""Families of different make: one token a patch, packed patches with M-RoPE, tiles with separators, crops."""


def tiny_models(
    names: Sequence[str] | None = QUICK, *, attentions: Sequence[Any] = ("sdpa",)
) -> st.SearchStrategy[Tiny]:
    """Tiny models, by their names in `vtprune.testing.models.families.VARIANTS`; built when they are drawn, once.

    names: None for all whose model class the installed transformers has. attentions: ``sdpa``, ``eager``. Models are
    shared: leave one as it was. Raises ValueError for an unknown name.
    """
    from vtprune.testing.models.families import VARIANTS, variant

    chosen = [each for each in VARIANTS.values() if each.available] if names is None else [variant(n) for n in names]
    pairs = st.tuples(st.sampled_from(chosen), st.sampled_from(list(attentions)))
    return pairs.map(lambda pair: pair[0].make(pair[1]))


@st.composite
def tiny_inputs(
    draw: st.DrawFn,
    tiny: AdapterSubject,
    *,
    samples: int = 3,
    images: int = 2,
    sides: Sequence[str] = ("left", "right"),
    vision: bool = True,
) -> Inputs:
    """Keyword arguments of the model of ``tiny``: ``input_ids`` and ``attention_mask`` int64 ``[batch, token]``, and
    pixels.

    One to ``samples`` samples with none to ``images`` images each, of unequal number and length, and hence padding on
    one of ``sides`` (`generate` wants it on the left). vision: at least one sample has an image.
    """
    counts = st.lists(st.integers(0, images), min_size=1, max_size=samples)
    chosen = draw(counts.filter(any) if vision else counts)
    least = draw(st.integers(1, 3))
    text = (least, least + draw(st.integers(0, 3)))
    side = draw(st.sampled_from(list(sides)))
    return tiny.make_inputs(tuple(chosen), seed=draw(st.integers(0, 99)), side=side, text=text)
