"""Which adapter a model class gets: built-in before third party, never one of two by chance, none broken by another."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from vtprune.adapters.llava import ADAPTER as LLAVA
from vtprune.core import lookup
from vtprune.core.errors import BindingError, PluginError, PluginWarning, UnsupportedModelError
from vtprune.core.plugins import discover
from vtprune.core.registry import Registration, Registry

Register = Callable[..., None]
CLASS = "LlavaForConditionalGeneration"


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """Registers an adapter of a third party, or a target that cannot be loaded."""
    book: Registry = discover([], {}).registry
    module = ModuleType("made_up_adapters")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(lookup, "registry", lambda: book)
    lookup._warn.cache_clear()

    def add(origin: str, adapter: Any, name: str = "mine", version: str = "1.2") -> None:
        attribute = f"{origin}_{name}"
        if adapter is not None:
            setattr(module, attribute, adapter)
        target = f"{module.__name__}:{attribute}"
        book.add(Registration("adapter", f"{origin}/{name}", target, "an adapter", None, origin, version))

    yield add
    lookup._warn.cache_clear()


def made(*architectures: str) -> Any:
    return replace(LLAVA, name="anything", architectures=architectures)


def test_a_third_party_family_is_found_under_its_registered_name(register: Register) -> None:
    register("acme", made("AcmeForConditionalGeneration"))
    assert lookup.is_known(["AcmeForConditionalGeneration"])
    assert lookup.find_adapter(["AcmeForConditionalGeneration"]).name == "acme/mine"


def test_the_built_in_stays_in_force_and_says_so(register: Register) -> None:
    register("acme", made(CLASS))
    with pytest.warns(
        PluginWarning, match=r"built-in adapter 'llava', though 'acme/mine' of acme 1.2 claims it too.*replace"
    ):
        assert lookup.find_adapter([CLASS]).name == "llava"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lookup.find_adapter([CLASS]).name == "llava", "said once"


def test_a_recipe_can_put_another_in_its_place(register: Register) -> None:
    register("acme", made(CLASS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lookup.find_adapter([CLASS], None, {"llava": "acme/mine"}).name == "acme/mine"


def test_a_replacement_for_another_family_is_refused(register: Register) -> None:
    register("acme", made("AcmeForConditionalGeneration"))
    with pytest.raises(UnsupportedModelError, match=f"acme/mine, which does not know {CLASS}; it is for AcmeFor"):
        lookup.find_adapter([CLASS], None, {"llava": "acme/mine"})


def test_two_third_parties_are_an_error_that_names_both(register: Register) -> None:
    register("acme", made("NewForConditionalGeneration"))
    register("other", made("NewForConditionalGeneration"), version="0.3")
    with pytest.raises(PluginError, match=r"'acme/mine' of acme 1.2, 'other/mine' of other 0.3") as caught:
        lookup.find_adapter(["NewForConditionalGeneration"])
    assert "replace: {acme/mine: other/mine}" in str(caught.value)
    chosen = lookup.find_adapter(["NewForConditionalGeneration"], None, {"acme/mine": "other/mine"})
    assert chosen.name == "other/mine"


def test_a_broken_adapter_breaks_no_other(register: Register) -> None:
    register("acme", None)
    with pytest.warns(PluginWarning, match="adapter 'acme/mine' of acme 1.2 cannot be loaded"):
        assert lookup.find_adapter([CLASS]).name == "llava"
    with pytest.raises(UnsupportedModelError, match=r"Not loaded: adapter 'acme/mine' of acme 1.2"):
        lookup.find_adapter(["NewForConditionalGeneration"])


def test_something_else_than_an_adapter_is_named(register: Register) -> None:
    register("acme", 3)
    with pytest.warns(PluginWarning, match="made_up_adapters:acme_mine is 3, not a vtprune Adapter"):
        lookup.is_known([CLASS])


def test_a_run_takes_the_adapter_that_its_recipe_names(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    import vtprune
    from vtprune.testing.models import tiny_llava

    register("acme", replace(made(CLASS), provides=frozenset({"features"})))
    stage = {"site": "llm.layers[1]", "scorer": "key_norm", "budget": 0.5}
    model = tiny_llava().model
    with pytest.warns(PluginWarning, match="built-in adapter 'llava'"):
        vtprune.prune(model, {"stages": [stage]})
    monkeypatch.setattr("vtprune.core.substitution.registry", lookup.registry)
    with pytest.raises(BindingError, match="acme/mine"):
        vtprune.prune(model, {"replace": {"llava": "acme/mine"}, "stages": [stage]})
