"""The ledger: what each cell came to, one JSON file for each version of transformers. Imports nothing heavy.

`vtprune.verify.folders` knows where these files lie.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtprune.core.errors import VtpruneError
from vtprune.verify.cells import Cell
from vtprune.verify.outcome import Outcome

FORMAT = 1


class LedgerError(VtpruneError):
    """A ledger that is not there, or cannot be read."""


@dataclass
class Block:
    """The cells of one tiny model with one attention implementation.

    family: the adapter that serves it; torch, vtprune: versions with which every cell of the block was run.
    cells: subject to mode to outcome.
    """

    family: str
    torch: str
    vtprune: str
    cells: dict[str, dict[str, Outcome]] = field(default_factory=dict)


@dataclass
class Ledger:
    """Everything recorded with one version of transformers; ``blocks`` by variant and attention implementation."""

    transformers: str
    blocks: dict[tuple[str, str], Block] = field(default_factory=dict)

    def outcome(self, cell: Cell) -> Outcome | None:
        """What a cell came to; None if it was not run."""
        block = self.blocks.get((cell.variant, cell.attention))
        return None if block is None else block.cells.get(cell.subject, {}).get(cell.mode)

    def cells(self) -> Iterator[tuple[Cell, Outcome]]:
        """Every cell that was run, sorted."""
        for (variant, attention), block in sorted(self.blocks.items()):
            for subject, modes in sorted(block.cells.items()):
                for mode, outcome in sorted(modes.items()):
                    yield Cell(variant, attention, mode, subject), outcome

    def merge(self, other: Ledger) -> list[str]:
        """Take over what ``other`` ran later. Cells of a block that were run with another version of torch or vtprune
        than the new ones are forgotten, since they say nothing of these versions; returns a note for each such block.

        Raises LedgerError if the ledgers are of different versions of transformers.
        """
        if other.transformers != self.transformers:
            raise LedgerError(f"a ledger of transformers {other.transformers} cannot go into {self.transformers}'s")
        notes = []
        for key, new in sorted(other.blocks.items()):
            old = self.blocks.get(key)
            if old is None or (old.torch, old.vtprune) != (new.torch, new.vtprune):
                if old is not None:
                    notes.append(
                        f"{'/'.join(key)}: what was run with torch {old.torch}, vtprune {old.vtprune} is forgotten"
                    )
                self.blocks[key] = Block(new.family, new.torch, new.vtprune)
            kept = self.blocks[key]
            kept.family = new.family
            for subject, modes in new.cells.items():
                kept.cells.setdefault(subject, {}).update(modes)
        return notes

    def to_json(self) -> str:
        """Sorted, one line a cell, the same for the same content."""
        blocks: dict[str, Any] = {}
        for (variant, attention), block in sorted(self.blocks.items()):
            cells = {name: {m: str(o) for m, o in sorted(found.items())} for name, found in sorted(block.cells.items())}
            head = {"family": block.family, "torch": block.torch, "vtprune": block.vtprune}
            blocks.setdefault(variant, {})[attention] = {**head, "cells": cells}
        data = {"format": FORMAT, "transformers": self.transformers, "variants": blocks}
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, text: str, source: str) -> Ledger:
        """Read `to_json` back; raises LedgerError that says where the text came from and what is wrong with it."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(f"its format is {data['format']}, expected {FORMAT}")
            ledger = cls(str(data["transformers"]))
            for variant, attentions in data["variants"].items():
                for attention, block in attentions.items():
                    cells = {name: _outcomes(modes) for name, modes in block["cells"].items()}
                    read = Block(block["family"], block["torch"], block["vtprune"], cells)
                    ledger.blocks[variant, attention] = read
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LedgerError(
                f"{source} is no ledger: {type(error).__name__}: {error}; delete it and run vtprune verify again"
            ) from error
        return ledger


def _outcomes(modes: Mapping[str, str]) -> dict[str, Outcome]:
    return {mode: Outcome.parse(text) for mode, text in modes.items()}


def read(path: Path) -> Ledger:
    """A ledger from its file; raises LedgerError if it is not there or damaged."""
    try:
        return Ledger.parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"{path} cannot be read: {error}") from error


def write(ledger: Ledger, path: Path) -> None:
    """Write a ledger, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(ledger.to_json(), encoding="utf-8")
    half.replace(path)
