"""Installed plugins that are broken: everything else works, and they are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.plugins.site import BROKEN, Done, Site

COMPONENTS = {"acme-good/lean", "acme-good/in_turn", "acme-good/middle", "acme-good/blur"}
EVERY = ("good", *BROKEN)


def names(done: Done) -> set[str]:
    assert done.code == 0, done.err
    return {entry["name"] for entry in done.data}


@pytest.fixture(scope="module")
def alone(site: Site) -> set[str]:
    """Every name where no plugin is installed."""
    return names(site.vtprune("list", "--json"))


def verdict(state: str) -> str:
    """The state as a predicate, as messages have it."""
    return "failed" if state == "failed" else f"is {state}"


@pytest.mark.parametrize("package", BROKEN)
def test_listing_goes_on_and_names_it(site: Site, alone: set[str], package: str) -> None:
    distribution, state, reason = BROKEN[package]
    done = site.vtprune("list", "--json", packages=["good", package])
    assert names(done) == alone | COMPONENTS | {"acme-good/squares"}
    (line,) = [line for line in done.err.splitlines() if distribution in line]
    assert line.startswith(f"note: plugin 'acme' of {distribution} 1.0 {verdict(state)}: ")
    assert reason in line
    assert "acme-good" not in done.err


@pytest.mark.parametrize("package", BROKEN)
def test_in_strict_mode_it_is_an_error(site: Site, package: str) -> None:
    distribution, state, reason = BROKEN[package]
    done = site.vtprune("list", packages=["good", package], switches={"VTPRUNE_STRICT_PLUGINS": "1"})
    assert done.code == 1
    assert done.out == ""
    assert f"error: plugin 'acme' of {distribution} 1.0 {verdict(state)}: " in done.err
    assert reason in done.err
    assert "Traceback" not in done.err


def test_strict_mode_minds_nothing_where_all_is_well(site: Site) -> None:
    done = site.vtprune("list", "--json", packages=["good"], switches={"VTPRUNE_STRICT_PLUGINS": "1"})
    assert names(done) >= COMPONENTS
    assert "note" not in done.err


def test_a_module_for_another_vtprune_is_never_imported(site: Site, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    done = site.vtprune("list", packages=["too_new_vtprune"], switches={"ACME_TRACE": str(trace)})
    assert done.code == 0
    assert not trace.exists()
    assert "acme-too-new-vtprune 1.0 asks for vtprune>=1000" in done.err
    code = "import acme_too_new_vtprune"  # so that the trace is known to be left where it is imported
    assert site.python(code, packages=["too_new_vtprune"], switches={"ACME_TRACE": str(trace)}).code == 1
    assert trace.exists()


def test_describing_works_beside_all_of_them(site: Site) -> None:
    done = site.vtprune("describe", "acme-good/lean", packages=EVERY)
    assert done.code == 0
    assert "acme-good 1.0" in done.out
    assert site.vtprune("describe", "fastv", packages=EVERY).code == 0


def test_validating_works_beside_all_of_them(site: Site) -> None:
    for recipe in ("acme-good/lean", "plphp"):
        done = site.vtprune("validate", recipe, packages=EVERY)
        assert done.code == 0, done.err
        assert "is valid" in done.out


def run(site: Site, folder: Path, recipe: str) -> dict[str, Any]:
    options = ("--max-new-tokens", 2, "--device", "cpu", "--json")
    done = site.vtprune("run", "-r", recipe, *options, packages=EVERY, cwd=folder)
    assert done.code == 0, done.err
    report: dict[str, Any] = done.data["report"]
    return report


def test_running_a_recipe_of_vtprune_beside_all_of_them(site: Site, tmp_path: Path) -> None:
    report = run(site, tmp_path, "random")
    assert report["stages"][0]["realised"] == 144
    assert set(report["versions"]) == {"vtprune", "torch", "transformers"}
    assert {part["origin"] for part in report["components"]} == {"vtprune"}


def test_running_a_recipe_of_the_good_one_names_it_in_the_report(site: Site, tmp_path: Path) -> None:
    report = run(site, tmp_path, "acme-good/lean")
    assert report["stages"][0]["realised"] == 144
    assert report["versions"]["acme-good"] == "1.0"
    assert not [name for name in report["versions"] if name.startswith("acme-") and name != "acme-good"]
    parts = {(part["kind"], part["name"]): part for part in report["components"]}
    made = {"origin": "acme-good", "version": "1.0"}
    assert parts["scorer", "acme-good/lean"] == {"kind": "scorer", "name": "acme-good/lean", **made, "revision": 2}
    assert parts["reducer", "acme-good/blur"] == {"kind": "reducer", "name": "acme-good/blur", **made, "revision": 1}
    assert parts["scorer", "random"]["origin"] == "vtprune"  # the one inside
    assert {kind for kind, _ in parts} == {"adapter", "scorer", "allocator", "selector", "reducer"}


def test_the_table_has_every_one_with_its_state(site: Site) -> None:
    done = site.vtprune("plugins", "--json", packages=EVERY)
    assert done.code == 0, done.err
    found = {plugin["distribution"]: plugin for plugin in done.data["plugins"]}
    assert list(found) == ["vtprune", *sorted({"acme-good", *(distribution for distribution, *_ in BROKEN.values())})]
    for distribution, state, reason in BROKEN.values():
        assert found[distribution]["state"] == state
        assert reason in found[distribution]["reason"]
        assert not found[distribution]["names"]
    assert found["acme-good"]["state"] == "active"
    assert found["acme-good"]["names"]["task"] == ["acme-good/squares"]
    table = site.vtprune("plugins", packages=EVERY)
    assert table.code == 0
    assert all(distribution in table.out for distribution in found)
    assert site.vtprune("plugins", packages=EVERY, switches={"VTPRUNE_STRICT_PLUGINS": "1"}).code == 1


def test_the_traceback_of_one(site: Site) -> None:
    done = site.vtprune("plugins", "--traceback", "acme-half-way", packages=EVERY)
    assert done.code == 0
    assert "acme_half_way.py" in done.out
    assert "KeyError: 'three'" in done.out
    assert "licence" not in done.out
