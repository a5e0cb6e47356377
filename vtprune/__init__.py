"""vtprune: vision-token pruning for large vision-language models, as recipes of plugins.

>>> with vtprune.prune(model, "plphp") as run:          # doctest: +SKIP
...     output = model.generate(**inputs)
>>> print(run.report)                                   # doctest: +SKIP

Importing the package imports neither torch nor transformers; each name below is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtprune.core.errors import VtpruneError
from vtprune.core.lazy import lazy

if TYPE_CHECKING:
    from vtprune.api import Run, components, observe, prune
    from vtprune.calibrate import calibrate_reattention
    from vtprune.core.budget import Budget
    from vtprune.core.plugins import hookimpl
    from vtprune.core.recipe import Recipe, Stage
    from vtprune.core.report import Report
    from vtprune.verify.index import UnverifiedWarning

_LAZY = {
    "prune": "vtprune.api",
    "observe": "vtprune.api",
    "Run": "vtprune.api",
    "components": "vtprune.api",
    "calibrate_reattention": "vtprune.calibrate",
    "Budget": "vtprune.core.budget",
    "hookimpl": "vtprune.core.plugins",
    "Recipe": "vtprune.core.recipe",
    "Stage": "vtprune.core.recipe",
    "Report": "vtprune.core.report",
    "UnverifiedWarning": "vtprune.verify.index",
}

__version__ = "0.1.0"
__all__ = [
    "Budget",
    "Recipe",
    "Report",
    "Run",
    "Stage",
    "UnverifiedWarning",
    "VtpruneError",
    "calibrate_reattention",
    "components",
    "hookimpl",
    "observe",
    "prune",
]

__getattr__, __dir__ = lazy(__name__, _LAZY)
