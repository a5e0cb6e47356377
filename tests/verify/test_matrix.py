"""The whole matrix: no cell fails, and the shipped ledger says what a run says now."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from vtprune.testing.models.families import VARIANTS
from vtprune.verify.folders import SHIPPED, file_name
from vtprune.verify.ledger import read
from vtprune.verify.run import plan, run_group

GROUPS = plan([name for name, variant in VARIANTS.items() if variant.available])


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group.variant}-{group.attention}")
def test_no_cell_fails_and_the_ledger_agrees(group) -> None:
    found = dict(run_group(group))
    assert not {cell: str(outcome) for cell, outcome in found.items() if outcome.status == "fail"}
    path = SHIPPED / file_name(version("transformers"))
    if not path.is_file():
        pytest.skip(f"no ledger of transformers {version('transformers')} is stored")
    stored = read(path)
    assert {cell: str(stored.outcome(cell)) for cell in found} == {
        cell: str(outcome) for cell, outcome in found.items()
    }
