"""What shells are offered."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Install
from tests.cli.test_plugins import BROKEN, GOOD
from tests.core.conftest import WritePlugin
from vtprune.cli import completion
from vtprune.core.engine.attention import SUPPORTED
from vtprune.core.plugins import registry
from vtprune.testing.checking import all_checks
from vtprune.testing.models.families import VARIANTS

ALL = {entry.name for entry in registry().entries()}


def complete(line: str, tmp_path: Path, **environment: str) -> tuple[list[str], set[str]]:
    """What bash is offered for the last word of a line, and which packages were imported for it."""
    code = (
        "import sys\nfrom vtprune.cli import main\nsys.argv = ['vtprune']\n"
        "try:\n    main()\nfinally:\n    print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    words = line.split(" ")
    bash = {"_VTPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **bash, **environment},
    )
    assert "Traceback" not in done.stderr
    return done.stdout.split(), set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vtprune describe fa", {name for name in ALL if name.startswith("fa")}),
        ("vtprune describe ", ALL),
        ("vtprune list s", {"scorers", "selectors"}),
        ("vtprune list --origin v", {"vtprune"}),
        ("vtprune run --recipe pl", {"plphp"}),
        ("vtprune run -m testbed/n", {"testbed/nano"}),
        ("vtprune validate un", {"uniform_grid"}),
        ("vtprune check vt", {"vtprune"}),
        ("vtprune study run q", {"quickstart"}),
        ("vtprune study show q", {"quickstart"}),
        ("vtprune adapters inspect testbed/", {"testbed/nano", "testbed/mrope"}),
        ("vtprune plugins --traceback vt", {"vtprune"}),
        ("vtprune validate ./no_such", set()),
        ("vtprune run --attn e", {"eager"}),
        ("vtprune check top_k --only binds", {"binds_somewhere"}),
        ("vtprune verify --family llava_n", {"llava_next", "llava_next_video"}),
        ("vtprune verify --mode be", {"beams"}),
        ("vtprune verify --site proj", {"projector.output"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_are_offered_and_nothing_heavy_imported(line: str, expected: set[str], tmp_path: Path) -> None:
    offered, imported = complete(line, tmp_path, VTPRUNE_DISABLE_PLUGINS="all")
    assert set(offered) == expected
    assert not imported & {"torch", "transformers", "numpy", "PIL", "pandas"}


def test_a_broken_installation_costs_no_traceback(tmp_path: Path) -> None:
    offered, _ = complete("vtprune describe fa", tmp_path, VTPRUNE_STRICT_PLUGINS="1", VTPRUNE_PLUGINS="nobody")
    assert offered == []


def test_every_check_is_offered_with_what_must_hold() -> None:
    assert dict(completion.check_name("")) == {name: check.summary for name, check in all_checks().items()}


def test_families_that_are_offered_are_those_that_can_be_verified() -> None:
    offered = {name for name, _ in completion.family_name("") if "/" not in name}
    assert offered == {variant.family for variant in VARIANTS.values()}
    assert "mllama" in ALL - offered, "it is refused"


def test_attentions_are_those_that_vtprune_prunes_under() -> None:
    assert [name for name, _ in completion.attention_name("")] == list(SUPPORTED)


def test_offers_come_with_what_they_are() -> None:
    offered = dict(completion.any_name("random"))
    assert list(offered) == ["random"]
    assert offered["random"].startswith("scorer: ")
    assert "; recipe: " in offered["random"]
    assert dict(completion.recipe_name("random"))["random"].startswith("baseline: ")


def test_third_parties_are_offered_too(install: Install, write_plugin: WritePlugin) -> None:
    install(write_plugin("cli_good", GOOD, dist="acme"), write_plugin("cli_broken", BROKEN, dist="acme-broken"))
    assert dict(completion.any_name("acme")).keys() == {"acme/entropy", "acme/other", "acme/mine"}
    assert dict(completion.recipe_name("acme")).keys() == {"acme/mine"}
    assert dict(completion.distribution_name("acme")) == {"acme": "1.2, active", "acme-broken": "1.2, failed"}
    checkable = dict(completion.checkable(""))
    assert {"acme", "vtprune", "acme/entropy", "top_k", "llava", "testbed"} <= checkable.keys()
    assert "acme/mine" not in checkable, "a recipe has no conformance checks"
