"""Names that several parts of a study share, some of which are slow to import; importing this one costs nothing."""

from __future__ import annotations

from typing import Final, Literal, get_args

Executor = Literal["inline", "processes", "ray"]
"""Where cells run; see `vtprune.study.executors`."""
EXECUTORS: Final[tuple[str, ...]] = get_args(Executor)

FACTORIAL: Final = "factorial"
"""Label of the variants of a factorial."""
LENT: Final = "factorial."
"""Before the axes that a combination of a factorial lends to a variant that is the same thing."""
