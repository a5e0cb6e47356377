"""What real packages cost, in which order they come, and what switches them off."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.plugins.site import BROKEN, GOOD, Site

EVERY = (*GOOD, *BROKEN, "house", "rival_house", "llava")
STATES = """
import json, sys
from vtprune.core.plugins import plugins, registry, plugins_problems
print(json.dumps({
    "plugins": [[p.distribution, p.version, p.entry_point, p.state, p.seconds, list(p.heavy)] for p in plugins()],
    "names": [entry.name for entry in registry().entries()],
    "problems": plugins_problems(),
    "heavy": [name for name in ("torch", "transformers", "pydantic") if name in sys.modules],
}))
"""


def state_of(site: Site, packages: tuple[str, ...], **switches: str) -> dict[str, Any]:
    done = site.python(STATES, packages=packages, switches=switches)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_discovery_imports_nothing_heavy(site: Site) -> None:
    found = state_of(site, tuple(package for package in EVERY if package != "heavy_import"))
    assert found["heavy"] == []
    assert {"acme-good/lean", "acme-slow-import/patient", "acme-bad-target/fine"} <= set(found["names"])


def test_a_plugin_that_imports_torch_is_told_apart(site: Site) -> None:
    found = state_of(site, GOOD)
    heavy = {name: imported for name, *_, imported in found["plugins"]}
    assert "torch" in heavy.pop("acme-heavy-import")
    assert set(map(tuple, heavy.values())) == {()}
    assert "torch" in found["heavy"]
    assert "acme-heavy-import/weighty" in found["names"]


def test_a_slow_plugin_is_told_apart(site: Site) -> None:
    seconds = {name: time for name, *_, time, _ in state_of(site, ("good", "slow_import"))["plugins"]}
    assert seconds["acme-slow-import"] >= 1
    assert seconds["acme-good"] < seconds["acme-slow-import"]


def test_the_order_is_that_of_the_names(site: Site) -> None:
    forwards, backwards = state_of(site, EVERY), state_of(site, EVERY[::-1])
    order = [plugin[:4] for plugin in forwards["plugins"]]
    assert order == [plugin[:4] for plugin in backwards["plugins"]]
    assert forwards["names"] == backwards["names"]
    assert order[0][0] == "vtprune"
    assert order[1:] == sorted(order[1:])
    assert len(order) == 1 + len(EVERY)
    assert ["rival-house", "2.1", "rival", "active"] in order


def test_half_of_a_plugin_is_none_of_it(site: Site) -> None:
    names = state_of(site, ("good", "half_way", "name_clash"))["names"]
    assert not [name for name in names if name.startswith(("acme-half-way", "acme-name-clash"))]


@pytest.mark.parametrize(
    ("switches", "active"),
    [
        ({}, {"acme-good", "acme-slow-import"}),
        ({"VTPRUNE_PLUGINS": "acme-good"}, {"acme-good"}),
        ({"VTPRUNE_PLUGINS": "Acme.Good"}, {"acme-good"}),
        ({"VTPRUNE_PLUGINS": ""}, set()),
        ({"VTPRUNE_DISABLE_PLUGINS": "acme-slow-import,acme-raising-hook"}, {"acme-good"}),
        ({"VTPRUNE_DISABLE_PLUGINS": "all"}, set()),
    ],
)
def test_switches(site: Site, switches: dict[str, str], active: set[str]) -> None:
    found = state_of(site, ("good", "slow_import", "raising_hook"), **switches)
    states = {name: state for name, _, _, state, *_ in found["plugins"]}
    assert {name for name, state in states.items() if state == "active"} == active | {"vtprune"}
    assert states["acme-raising-hook"] == ("disabled" if switches else "failed")
    assert {name.partition("/")[0] for name in found["names"] if "/" in name} == active


def test_a_switch_that_names_nothing_is_told(site: Site) -> None:
    (problem,) = state_of(site, ("good",), VTPRUNE_PLUGINS="acme-good,acme-goof")["problems"]
    assert problem.startswith("VTPRUNE_PLUGINS names 'acme-goof'")
    assert "Did you mean 'acme-good'?" in problem


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_module", "cannot be loaded from acme_bad_target.scorers:Entropy: ModuleNotFoundError"),
        ("no_class", "cannot be loaded from acme_bad_target:Entropy: AttributeError"),
        ("no_scorer", "is registered as <class 'vtprune.selectors.top_k.TopK'>, which is not a subclass of Scorer"),
    ],
)
def test_a_bad_target_shows_when_it_is_used(site: Site, name: str, said: str) -> None:
    code = f"from vtprune.core.spec import build; build('scorer', 'acme-bad-target/{name}')"
    done = site.python(code, packages=GOOD)
    assert done.code == 1
    assert said in done.err.splitlines()[-1]


def test_a_registered_recipe_without_its_file(site: Site) -> None:
    done = site.vtprune("validate", "acme-bad-target/no_file", packages=GOOD)
    assert done.code == 1
    assert "recipe 'acme-bad-target/no_file' of acme-bad-target 1.0 cannot be read" in done.err
    assert "Traceback" not in done.err


def test_what_is_fine_beside_bad_targets_works(site: Site) -> None:
    code = "from vtprune.core.spec import build; print(build('scorer', 'acme-bad-target/fine'))"
    done = site.python(code, packages=("bad_target",))
    assert done.code == 0
    assert done.out == "seed=0\n"


def test_the_table_tells_what_is_slow_and_who_claims_what(site: Site) -> None:
    packages = ("good", "slow_import", "heavy_import", "house", "rival_house", "llava")
    done = site.vtprune("plugins", "--json", packages=packages, switches={"VTPRUNE_DISABLE_PLUGINS": "acme-slo"})
    assert done.code == 0
    remarks = done.data["remarks"]
    for said in (
        ("VTPRUNE_DISABLE_PLUGINS names 'acme-slo'",),
        ("acme-slow-import 1.0: acme_slow_import takes ", " s to register its names"),
        ("acme-heavy-import 1.0: acme_heavy_import imports torch",),
        ("adapter acme-llava/llava claims LlavaForConditionalGeneration", "the built-in 'llava' stays in force"),
        ("HouseForConditionalGeneration: claimed by", "acme-house 1.0", "rival-house 2.1"),
    ):
        assert any(all(part in remark for part in said) for remark in remarks), (said, remarks)
    # On a busy machine anything may take long; what counts as slow is tested with given seconds.
    others = [remark for remark in remarks if " takes " not in remark]
    assert not any(remark.startswith(("acme-good", "adapter acme-good")) for remark in others)
    assert site.vtprune("plugins", packages=[*packages[:2], *packages[3:]]).heavy == ()
