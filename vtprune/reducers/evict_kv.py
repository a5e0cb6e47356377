"""EvictKV: the rest leaves the KV cache."""

from __future__ import annotations

from typing import ClassVar, Literal

from vtprune.core.component import Reducer


class EvictKV(Reducer):
    """Remove the keys and values of the tokens that are not kept, per layer and KV head, after the prompt was read.

    The prompt itself is computed in full, so the first generated token is the dense model's; from the second on,
    decoding reads the smaller cache. Keys were rotated before they were cached, so nothing is rotated again.
    """

    sites: ClassVar[frozenset[Literal["hidden", "kv"]]] = frozenset({"kv"})
