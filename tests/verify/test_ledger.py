"""Ledgers on disk: round trip, merging, what is forgotten, damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vtprune.verify.cells import Cell
from vtprune.verify.folders import SHIPPED, Folder, file_name, find, version_key
from vtprune.verify.ledger import Block, Ledger, LedgerError, read, write
from vtprune.verify.outcome import LONGEST, Outcome, sentence

PASS = Outcome("pass")
REFUSED = Outcome("refused", "no such thing: leave it")
CELL = Cell("llava", "sdpa", "single", "llm.layers[1]")


def ledger(*cells: tuple[Cell, Outcome], torch: str = "2.13.0", transformers: str = "5.23.0") -> Ledger:
    made = Ledger(transformers)
    for cell, outcome in cells:
        block = made.blocks.setdefault((cell.variant, cell.attention), Block("llava", torch, "0.1.0"))
        block.cells.setdefault(cell.subject, {})[cell.mode] = outcome
    return made


OTHERS = [
    (CELL._replace(mode=mode, attention=attention), REFUSED)
    for mode in ("beams", "a")
    for attention in ("sdpa", "eager")
]


def test_round_trip() -> None:
    one = ledger((CELL, PASS), *OTHERS)
    assert Ledger.parse(one.to_json(), "text") == one
    assert one.outcome(CELL) == PASS
    assert one.outcome(CELL._replace(mode="video")) is None
    assert one.outcome(CELL._replace(variant="qwen2_vl")) is None


def test_the_text_does_not_depend_on_the_order_of_the_run() -> None:
    cells = [(CELL, PASS), *OTHERS]
    assert ledger(*cells).to_json() == ledger(*reversed(cells)).to_json()


def test_one_line_a_cell() -> None:
    before, after = (ledger((CELL, outcome), *OTHERS).to_json().splitlines() for outcome in (PASS, REFUSED))
    assert len(before) == len(after)
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1


def test_a_part_that_was_run_again_replaces_that_part_only() -> None:
    whole = ledger((CELL, REFUSED), *OTHERS)
    new = (CELL._replace(variant="vipllava"), PASS)
    assert whole.merge(ledger((CELL, PASS), new)) == []
    assert dict(whole.cells()) == dict([(CELL, PASS), new, *OTHERS])


def test_what_other_versions_showed_is_forgotten_in_that_block_only() -> None:
    whole = ledger((CELL, REFUSED), *OTHERS)
    notes = whole.merge(ledger((CELL, PASS), torch="2.14.0"))
    assert len(notes) == 1
    assert "llava/sdpa: what was run with torch 2.13.0" in notes[0]
    eager = [(cell, outcome) for cell, outcome in OTHERS if cell.attention == "eager"]
    assert dict(whole.cells()) == dict([(CELL, PASS), *eager])
    assert whole.blocks["llava", "sdpa"].torch == "2.14.0"


def test_ledgers_of_two_versions_of_transformers_do_not_mix() -> None:
    with pytest.raises(LedgerError, match=r"transformers 5\.17\.0 cannot go into 5\.23\.0's"):
        ledger().merge(ledger(transformers="5.17.0"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 99}',
        ledger((CELL, PASS)).to_json()[:-40],
        ledger((CELL, PASS)).to_json().replace('"pass"', '"passed"'),
        ledger((CELL, PASS)).to_json().replace('"pass"', '"fail"'),
        ledger((CELL, PASS)).to_json().replace('"torch"', '"tensor"'),
    ],
)
def test_damage_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(LedgerError, match=r"a\.json is no ledger: .*delete it and run vtprune verify again"):
        read(path)


def test_a_missing_or_binary_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    for name in ("a.json", "b.json"):
        with pytest.raises(LedgerError, match="cannot be read"):
            read(tmp_path / name)


def test_own_results_lie_on_top_of_the_shipped_ones(shipped: Path, own: Path) -> None:
    write(ledger((CELL, REFUSED), *OTHERS), shipped / file_name("5.23.0"))
    assert find("5.23.0").outcome(CELL) == REFUSED
    write(ledger((CELL, PASS)), own / file_name("5.23.0"))
    assert dict(find("5.23.0").cells()) == dict([(CELL, PASS), *OTHERS])
    write(ledger(transformers="5.20.0"), own / file_name("5.20.0"))
    assert find("5.20.0").blocks == {}
    with pytest.raises(
        LedgerError, match=r"nothing was verified with transformers 5\.22\.0.*Known: 5\.20\.0, 5\.23\.0"
    ):
        find("5.22.0")


def test_writing_leaves_no_half_file(tmp_path: Path) -> None:
    write(ledger((CELL, PASS)), tmp_path / "deep" / "a.json")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_versions_are_sorted_as_numbers(tmp_path: Path) -> None:
    for version in ("5.9.0", "5.23.0", "5.100.1", "5.24.0.dev0"):
        write(ledger(transformers=version), tmp_path / file_name(version))
    assert list(Folder(tmp_path).files()) == ["5.9.0", "5.23.0", "5.24.0.dev0", "5.100.1"]
    assert version_key("5.24.0rc1") == (5, 24, 1)


@pytest.mark.parametrize("path", Folder(SHIPPED).files().values(), ids=lambda path: path.stem)
def test_the_shipped_ledgers_are_whole_and_written_as_by_us(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = Ledger.parse(text, str(path))
    assert found.to_json() == text
    assert path == SHIPPED / file_name(found.transformers)
    assert json.loads(text)["format"] == 1
    assert not [(cell, outcome) for cell, outcome in found.cells() if outcome.status == "fail"]


def test_outcomes_are_read_back() -> None:
    for outcome in (PASS, REFUSED, Outcome("fail", "a: b: c")):
        assert Outcome.parse(str(outcome)) == outcome


def test_a_reason_is_one_line_without_addresses_and_not_endless() -> None:
    error = ValueError("a\n  - b at 0x7f00aa " + "x" * 1000)
    text = sentence(error, named=True)
    assert text.startswith("ValueError: a - b at 0x x")
    assert len(text) == LONGEST
