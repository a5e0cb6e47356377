"""Hypothesis strategies for everything that a component may be handed. Needs hypothesis, and nothing but this does.

| name | draws |
|---|---|
| `grids` | (t, h, w) of an image or a video |
| `layouts` | `SampleLayout`: images of unequal size, crops, separators, videos |
| `buckets` | samples that a component sees together, with as many vision tokens left |
| `needs` | `Need` of any kind |
| `signals` | `Signals` with everything that a component declares, ordinary and extreme, of any float dtype |
| `scores` | float32 ``[row, vision]`` with ties, infinities and numbers barely above 0 |
| `features` | float ``[row, vision, dim]``: duplicates, low rank, zeros, huge and denormal numbers, any float dtype |
| `candidates` | `Candidates` for selectors, with protected tokens and counts that can be met |
| `budgets` | `Budget` in every unit |
| `places` | where a stage acts, as an allocator sees it |
| `requests` | what allocators are asked, with the samples |
| `sites` | `Site`: outputs, single layers, slices and lists |
| `components` | registered scorers, allocators, selectors or reducers: their ``examples()`` |
| `stages` | `Stage` whose parts fit each other |
| `recipes` | `Recipe` of such stages; with ``model=`` one that can be bound to it |
| `tiny_models` | tiny models of the shipped families |
| `tiny_inputs` | inputs of one of them: several images, none, padding on either side |
"""

from vtprune.testing.strategies.budgets import budgets
from vtprune.testing.strategies.candidates import candidates
from vtprune.testing.strategies.features import features
from vtprune.testing.strategies.layouts import buckets, grids, layouts
from vtprune.testing.strategies.models import tiny_inputs, tiny_models
from vtprune.testing.strategies.recipes import components, recipes, sites, stages
from vtprune.testing.strategies.requests import places, requests
from vtprune.testing.strategies.scores import scores
from vtprune.testing.strategies.signals import needs, signals

__all__ = [
    "buckets",
    "budgets",
    "candidates",
    "components",
    "features",
    "grids",
    "layouts",
    "needs",
    "places",
    "recipes",
    "requests",
    "scores",
    "signals",
    "sites",
    "stages",
    "tiny_inputs",
    "tiny_models",
]
