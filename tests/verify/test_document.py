"""docs/verified.md is made from the shipped ledgers alone, and says no more than they do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.verify.test_ledger import ledger
from vtprune.verify.cells import ATTENTIONS, Cell, crossed
from vtprune.verify.document import HEADER, UNVERIFIED, document, section
from vtprune.verify.folders import SHIPPED, Folder
from vtprune.verify.ledger import Ledger, read
from vtprune.verify.modes import MODES
from vtprune.verify.outcome import Outcome
from vtprune.verify.subjects import SUBJECTS

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "verified.md"
EVERYTHING = [
    (Cell("llava", attention, mode, subject), Outcome("pass"))
    for attention in ATTENTIONS
    for mode, subject in crossed(modes=tuple(MODES), attention=attention)
]


def rows(ledger: Ledger) -> dict[str, str]:
    """The llava row's cell under every heading."""
    found: dict[str, str] = {}
    headings: list[str] = []
    for line in section(ledger).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| family"):
            headings = cells[1:]
        elif line.startswith("| llava"):
            found.update(zip((heading.strip("`") for heading in headings), cells[1:], strict=True))
    return found


def changed(cell: Cell, outcome: Outcome | None) -> dict[str, str]:
    """What a page with everything passed shows otherwise if one cell came to something else."""
    cells = [(one, outcome if one == cell else was) for one, was in EVERYTHING if one != cell or outcome is not None]
    assert len(cells) == len(EVERYTHING) - (outcome is None)
    before, after = rows(ledger(*EVERYTHING)), rows(ledger(*cells))
    return {name: shown for name, shown in after.items() if before[name] != shown}


def test_the_page_is_in_step_with_the_ledgers() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(map(read, Folder(SHIPPED).files().values()))


def test_it_is_reproducible() -> None:
    ledgers = [read(path) for path in Folder(SHIPPED).files().values()]
    again = [Ledger.parse(each.to_json(), "") for each in reversed(ledgers)]
    assert document(ledgers) == document(again)


def test_the_tool_finds_the_page_up_to_date() -> None:
    tool = [sys.executable, str(ROOT / "tools" / "verified_tables.py"), "--check"]
    assert subprocess.run(tool, check=False).returncode == 0


def test_every_mode_site_and_method_has_a_column() -> None:
    shown = rows(ledger(*EVERYTHING))
    assert set(shown) == {*SUBJECTS, *MODES}
    assert all(set(shown[name]) == {"✓"} for name in SUBJECTS)
    assert all(shown[name] == "✓ ✓" for name in MODES)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_cell_that_was_not_run_is_not_a_pass(attention: str) -> None:
    both = Cell("llava", attention, "padded", "llm.layers[1]")
    assert changed(both, None) == {"padded": f"✓{UNVERIFIED} ✓", "llm.layers[1]": f"✓{UNVERIFIED}"}


def test_a_mode_that_was_not_run_is_not_verified() -> None:
    cell = Cell("llava", "sdpa", "beams", "llm.layers[1:3].kv")
    assert changed(cell, None) == {"beams": f"✓ {UNVERIFIED}"}


def test_the_most_serious_outcome_is_shown_with_its_reason() -> None:
    cell = Cell("llava", "sdpa", "beams", "llm.layers[1]")
    assert changed(cell, Outcome("refused", "no beams")) == {"beams": "r1 ✓"}
    assert changed(cell, Outcome("upstream", "KeyError")) == {"beams": "u1 ✓"}
    assert changed(cell, Outcome("absent", "no such thing")) == {"beams": "- ✓"}
    assert changed(cell, Outcome("fail", "wrong")) == {"beams": "✗1 ✓"}
    text = section(ledger((cell, Outcome("fail", "wrong by 1.0"))))
    assert "✗1 ?" in text, "a failure shows even where the rest was not run"
    part = Cell("llava", "sdpa", "padded", "llm.layers[1]")
    assert rows(ledger((part, Outcome("refused", "x"))))["padded"] == "r1? ?"
    assert text.rstrip().endswith("Reasons:\n\n1. wrong by 1.0")


def test_equal_reasons_share_a_number() -> None:
    modes = ("static_cache", "quantized_cache", "offloaded_cache")
    reasons = dict(zip(modes, ("a", "b", "a"), strict=True))
    cells = [
        (cell, Outcome("refused", reasons[cell.mode]) if cell.mode in reasons else was) for cell, was in EVERYTHING
    ]
    shown = rows(ledger(*cells))
    assert [shown[mode] for mode in modes] == ["r1 r1", "r2 r2", "r1 r1"]


def test_the_newest_version_comes_first_and_the_legend_names_every_symbol() -> None:
    text = document([ledger(transformers=version) for version in ("5.9.0", "5.23.0", "5.17.0")])
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        f"## transformers {version}" for version in ("5.23.0", "5.17.0", "5.9.0")
    ]
    assert all(f"| {symbol} |" in HEADER for symbol in "✓ru-✗?")
