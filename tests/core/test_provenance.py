"""Where the parts of a recipe come from."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
from torch import Tensor

from vtprune.adapters.llava import ADAPTER
from vtprune.core.component import Scorer
from vtprune.core.plugins import registry
from vtprune.core.provenance import Provenance, components, distributions, of_adapter, of_class, of_parts
from vtprune.core.recipe import Recipe
from vtprune.core.registry import Registration
from vtprune.core.signals import Signals


class Entropy(Scorer):
    revision: ClassVar[int] = 4

    def score(self, signals: Signals) -> Tensor:
        return signals.features().sum(-1)


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scorer and an adapter of a third party, registered until the test ends."""
    everything = registry()
    monkeypatch.setattr(everything, "_entries", dict(everything._entries))
    monkeypatch.setattr(everything, "_loaded", dict(everything._loaded))
    for kind, target in (("scorer", f"{__name__}:Entropy"), ("adapter", f"{__name__}:ADAPTER")):
        everything.add(Registration(kind, "acme/it", target, "a summary", None, "acme", "1.2"))


@pytest.mark.usefixtures("acme")
def test_of_a_component() -> None:
    assert of_class("scorer", Entropy) == Provenance("scorer", "acme/it", "acme", "1.2", 4)
    random = of_class("scorer", registry().load("scorer", "random"))
    assert (random.name, random.origin, random.revision, random.is_third_party) == ("random", "vtprune", 1, False)
    assert of_class("scorer", Entropy).is_third_party


def test_of_a_class_that_nothing_registered() -> None:
    found = of_class("scorer", Entropy)
    assert found == Provenance("scorer", f"{__name__}:Entropy", None, None, 4)
    assert not found.is_third_party


@pytest.mark.usefixtures("acme")
def test_of_an_adapter() -> None:
    assert of_adapter(replace(ADAPTER, name="acme/it")) == Provenance("adapter", "acme/it", "acme", "1.2", None)
    own = of_adapter(ADAPTER)
    assert own is not None
    assert (own.name, own.origin) == ("llava", "vtprune")
    assert of_adapter(replace(ADAPTER, name="of a test")) is None
    assert of_adapter(replace(ADAPTER, recognised=True)) is None


@pytest.mark.usefixtures("acme")
def test_of_a_recipe_with_components_inside_components() -> None:
    inner = {"name": "weighted_sum", "scorers": ["acme/it", "random", "acme/it"], "weights": [1, 2, 3]}
    stage = {
        "site": "projector.output",
        "scorer": {"name": "normalise", "scorer": inner, "method": "rank"},
        "budget": 0.5,
    }
    recipe = Recipe.parse({"stages": [stage, {**stage, "site": "llm.layers[2]"}]})
    found = of_parts(list(recipe.stages))
    assert [(part.kind, part.name) for part in found] == [
        ("allocator", "uniform"),
        ("reducer", "drop"),
        ("scorer", "acme/it"),
        ("scorer", "normalise"),
        ("scorer", "random"),
        ("scorer", "weighted_sum"),
        ("selector", "top_k"),
    ]
    assert distributions(found) == {"acme": "1.2"}
    assert len(list(components(list(recipe.stages)))) == 2 * (5 + 3)
    assert of_parts([]) == ()


def test_data() -> None:
    part = Provenance("scorer", "acme/it", "acme", "1.2", 4)
    assert part.to_dict() == {"kind": "scorer", "name": "acme/it", "origin": "acme", "version": "1.2", "revision": 4}
