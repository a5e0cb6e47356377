"""Adapters of several distributions for one model class."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.plugins.site import Site

CODE = """
import json, sys, warnings
from transformers import LlavaForConditionalGeneration
from vtprune import Recipe, VtpruneError
from vtprune.core.engine.plan import bind
from vtprune.testing.models import tiny_llava

class HouseForConditionalGeneration(LlavaForConditionalGeneration):
    pass

model, said = tiny_llava().model, []
for house, replace in json.loads(sys.argv[1]):
    model.__class__ = HouseForConditionalGeneration if house else LlavaForConditionalGeneration
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            name = bind(Recipe.load("random", replace=replace), model).parts.adapter.name
        except VtpruneError as error:
            name = f"{type(error).__name__}: {error}"
    said.append([name, [f"{one.category.__name__}: {one.message}" for one in seen]])
print(json.dumps(said))
"""
HOUSE, LLAVA = True, False
BOTH = ("house", "rival_house")
Case = tuple[bool, Mapping[str, str]]


def bound(site: Site, packages: tuple[str, ...], *cases: Case, **switches: str) -> list[tuple[str, list[str]]]:
    """For each model class and ``replace``, the adapter's name or the error, and warnings; one process for all."""
    done = site.python(CODE, json.dumps(cases), packages=packages, switches=switches)
    assert done.code == 0, done.err
    return [(name, warnings) for name, warnings in done.data]


def test_one_claim_is_taken(site: Site) -> None:
    missing = {"llava": "acme-llava/llava"}
    own, other, absent = bound(site, ("house",), (HOUSE, {}), (LLAVA, {}), (LLAVA, missing))
    assert own == ("acme-house/house", [])
    assert other == ("llava", [])
    assert "'llava' is to be 'acme-llava/llava', which nothing has registered" in absent[0]


def test_two_claims_are_an_error_that_names_both_unless_a_recipe_decides(site: Site) -> None:
    first, second = "acme-house/house", "rival-house/house"
    found = bound(site, BOTH, (HOUSE, {}), (HOUSE, {first: second}), (HOUSE, {second: first}), (LLAVA, {}), (HOUSE, {}))
    text = found[0][0]
    assert text.startswith("PluginError: HouseForConditionalGeneration is claimed by the adapters")
    assert "'acme-house/house' of acme-house 1.0" in text
    assert "'rival-house/house' of rival-house 2.1" in text
    assert "replace: {acme-house/house: rival-house/house}" in text
    assert found[1:4] == [(second, []), (first, []), ("llava", [])]  # nobody else is disturbed
    assert found[4] == found[0]  # and nothing was decided for good


def test_a_switch_decides_between_two_claims(site: Site) -> None:
    assert bound(site, BOTH, (HOUSE, {}), VTPRUNE_DISABLE_PLUGINS="acme-house") == [("rival-house/house", [])]


def test_a_built_in_stays_in_force_unless_a_recipe_says_otherwise(site: Site) -> None:
    replaced, kept = bound(site, ("llava",), (LLAVA, {"llava": "acme-llava/llava"}), (LLAVA, {}))
    assert replaced == ("acme-llava/llava", [])
    name, (warning,) = kept
    assert name == "llava"
    assert warning.startswith("PluginWarning: LlavaForConditionalGeneration gets the built-in adapter 'llava'")
    assert "though 'acme-llava/llava' of acme-llava 1.0 claims it too" in warning
    assert "replace: {llava: acme-llava/llava}" in warning
