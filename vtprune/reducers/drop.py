"""Drop: the rest leaves the sequence."""

from __future__ import annotations

from typing import ClassVar, Literal

from vtprune.core.component import Reducer


class Drop(Reducer):
    """Remove the tokens that are not kept, unchanged and for good, before the next module runs.

    Kept tokens are not touched. From the site on, every layer computes and caches the kept tokens only.
    """

    sites: ClassVar[frozenset[Literal["hidden", "kv"]]] = frozenset({"hidden"})
