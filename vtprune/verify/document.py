"""The tables of docs/verified.md, made from ledgers alone. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from vtprune.verify.cells import Cell, crossed
from vtprune.verify.folders import version_key
from vtprune.verify.ledger import Ledger
from vtprune.verify.modes import MODES
from vtprune.verify.outcome import Outcome, Status
from vtprune.verify.subjects import SITES, SUBJECTS

SYMBOL: Final = {"pass": "✓", "refused": "r", "upstream": "u", "absent": "-", "fail": "✗"}
UNVERIFIED: Final = "?"
SERIOUSNESS: Final[tuple[Status, ...]] = ("fail", "refused", "upstream", "absent", "pass")
Pair = tuple[str, str]
HEADER: Final = """\
# Verified

What `vtprune verify` found, by version of transformers. [verification.md](verification.md) says what a cell checks.
This page is generated from the ledgers that ship with the package (`vtprune/verify/results/`); `make docs` writes it.

| symbol | meaning |
|---|---|
| ✓ | ran, and was right |
| r | refused by vtprune with an error, before anything wrong came out; the reasons are below the tables |
| u | transformers' own model, without vtprune, does not work in this mode |
| - | there is nothing to try it on |
| ✗ | failed |
| ? | not verified: was not run; behind another symbol, a part of what the cell sums up was not |

A row is a tiny model of a family with random weights. A cell sums up sdpa and eager attention (eager for sites,
methods and prompts only) and, for a site, the modes that concern every site; the most serious outcome is shown, in the
order ✗, r, u, -, ✓. A mode's cell has two symbols: for the site that drops (`llm.layers[1]`) and for the one that
evicts from the cache (`llm.layers[1:3].kv`).
"""


def document(ledgers: Iterable[Ledger]) -> str:
    """The whole page, the newest version of transformers first."""
    newest_first = sorted(ledgers, key=lambda ledger: version_key(ledger.transformers), reverse=True)
    return "\n".join([HEADER, *(section(ledger) for ledger in newest_first)])


def section(ledger: Ledger) -> str:
    """The tables of one version."""
    notes = Notes()
    variants = sorted({variant for variant, _ in ledger.blocks}, key=lambda name: (family_of(ledger, name), name))
    sites = {name: [[pair for pair in crossed() if pair[1] == name and MODES[pair[0]].every_site]] for name in SUBJECTS}
    tables = [table("Sites and methods", ledger, variants, sites, notes)]
    full = [site.name for site in SITES if site.full]
    for group in dict.fromkeys(mode.group for mode in MODES.values()):
        columns = {name: [[(name, site)] for site in full] for name, mode in MODES.items() if mode.group == group}
        tables.append(table(group.capitalize(), ledger, variants, columns, notes))
    versions = sorted({f"torch {block.torch}, vtprune {block.vtprune}" for block in ledger.blocks.values()})
    lines = [f"## transformers {ledger.transformers}", "", f"Run with {'; '.join(versions)}.", "", *tables]
    return "\n".join([*lines, *notes.lines(), ""])


def table(
    title: str, ledger: Ledger, variants: Sequence[str], columns: dict[str, list[list[Pair]]], notes: Notes
) -> str:
    """One table. columns: by heading, for each symbol of a cell the (mode, subject) pairs it sums up."""
    lines = [
        f"### {title}",
        "",
        f"| family (variant) | {' | '.join(map(code, columns))} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for variant in variants:
        family = family_of(ledger, variant)
        row = family if family == variant else f"{family} ({variant})"
        cells = [" ".join(symbol(ledger, variant, pairs, notes) for pairs in parts) for parts in columns.values()]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def family_of(ledger: Ledger, variant: str) -> str:
    """The adapter that serves a variant, as recorded."""
    return next(block.family for (name, _), block in ledger.blocks.items() if name == variant)


def code(text: str) -> str:
    """As code."""
    return f"`{text}`"


def symbol(ledger: Ledger, variant: str, pairs: Sequence[tuple[str, str]], notes: Notes) -> str:
    """The most serious outcome among the cells, with the numbers of its reasons."""
    outcomes: list[Outcome | None] = [
        ledger.outcome(Cell(variant, attention, mode, subject))
        for mode, subject in pairs
        for attention in MODES[mode].attentions
    ]
    ran = [outcome for outcome in outcomes if outcome is not None]
    if not ran:
        return UNVERIFIED
    status = next(status for status in SERIOUSNESS if any(outcome.status == status for outcome in ran))
    found = [outcome for outcome in ran if outcome.status == status]
    numbers = notes.numbers(found) if status in ("fail", "refused", "upstream") else ""
    return SYMBOL[status] + numbers + (UNVERIFIED if len(ran) < len(outcomes) else "")


class Notes:
    """Reasons, numbered in the order in which the tables first need them."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def numbers(self, outcomes: Iterable[Outcome]) -> str:
        """The numbers of their reasons, ascending."""
        for outcome in outcomes:
            self._numbers.setdefault(outcome.reason, len(self._numbers) + 1)
        return ",".join(str(number) for number in sorted({self._numbers[outcome.reason] for outcome in outcomes}))

    def lines(self) -> list[str]:
        """The reasons as a list."""
        if not self._numbers:
            return []
        return ["Reasons:", "", *(f"{number}. {reason}" for reason, number in self._numbers.items())]
