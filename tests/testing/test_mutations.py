"""Faults put into the built-ins are noticed by the conformance checks, and docs/mutations.md says by which."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from vtprune.core.component import COMPONENT_KINDS, Candidates
from vtprune.selectors.top_k import TopK
from vtprune.testing.checking import all_checks

ROOT = Path(__file__).resolve().parent.parent.parent
spec = importlib.util.spec_from_file_location("mutation_table", ROOT / "tools" / "mutation_table.py")
assert spec is not None
assert spec.loader is not None
table = importlib.util.module_from_spec(spec)
sys.modules["mutation_table"] = table  # dataclasses look their module up
spec.loader.exec_module(table)

MUTATIONS = table.mutations()
QUICK = {"top_k", "merge", "random", "key_norm", "uniform", "evict_kv"}
"""Built-ins whose suite takes no time; one kind each, at least."""


def test_the_mutations_fit_the_source() -> None:
    for mutation in MUTATIONS:
        assert mutation.source() != (ROOT / mutation.file).read_text(encoding="utf-8")


def test_there_are_mutations_of_every_kind_of_component() -> None:
    counted = Counter(mutation.kind for mutation in MUTATIONS)
    assert set(counted) == set(COMPONENT_KINDS)
    assert min(counted.values()) >= 5
    assert len({mutation.component for mutation in MUTATIONS}) >= 12
    assert max(Counter((mutation.component, mutation.what) for mutation in MUTATIONS).values()) == 1


def test_text_that_no_longer_occurs_is_an_error() -> None:
    row = table.Mutation("top_k", "nothing", "vtprune/selectors/top_k.py", "no such text", "")
    with pytest.raises(ValueError, match="has 0 times"):
        row.source()


def test_the_modules_in_use_stay_as_they_were() -> None:
    given = Candidates(torch.tensor([2]), 3, torch.tensor([[1.0, 3, 2]]), None, torch.zeros(1, 3, dtype=torch.bool))
    before = {name: module for name, module in sys.modules.items() if name.startswith("vtprune.selectors")}
    (row,) = [row for row in MUTATIONS if (row.component, row.what) == ("top_k", "order reversed")]
    made = table.made_anew("selector", "top_k", row)
    assert made().select(given).tolist() == [[True, False, True]]
    assert table.made_anew("selector", "top_k")().select(given).tolist() == [[False, True, True]]
    assert TopK().select(given).tolist() == [[False, True, True]]
    assert before == {name: module for name, module in sys.modules.items() if name.startswith("vtprune.selectors")}


def test_a_fault_that_nothing_notices_is_an_error() -> None:
    harmless = table.Mutation(
        "top_k", "a comment", "vtprune/selectors/top_k.py", '"""The highest scores."""', '"""No fault."""'
    )
    with pytest.raises(AssertionError, match="1 mutations go unnoticed: top_k: a comment"):
        table.run([harmless])


def documented() -> list[tuple[str, str, list[str]]]:
    """Component, fault and checks of each line of the page's tables."""
    lines = table.PAGE.read_text(encoding="utf-8").splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    return [(name.strip("`"), what, re.findall(r"`(\w+)`", found)) for name, _, what, found in cells]


def test_the_page_has_every_mutation_and_names_checks_that_exist() -> None:
    rows = documented()
    assert Counter((name, what) for name, what, _ in rows) == Counter((row.component, row.what) for row in MUTATIONS)
    for name, what, found in rows:
        assert found, f"{name}: {what} goes unnoticed"
        assert set(found) <= set(all_checks()), f"{name}: {what}: run `make docs`"


def test_some_mutations_are_noticed_by_what_the_page_says() -> None:
    found = table.run([row for row in MUTATIONS if row.component in QUICK])
    page = {(name, what): checks for name, what, checks in documented()}
    assert {(row.component, row.what): checks for row, checks in found.items()} == {
        key: checks for key, checks in page.items() if key[0] in QUICK
    }


@pytest.mark.slow
def test_every_mutation_is_noticed_and_the_page_is_up_to_date() -> None:
    assert table.page(table.run(MUTATIONS)) == table.PAGE.read_text(encoding="utf-8"), "run `make docs`"
