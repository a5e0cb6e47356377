"""Every test has a ledger of its own, and no warning has been given yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vtprune.verify import index
from vtprune.verify.folders import OWN_VARIABLE


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of this user's own results: empty."""
    monkeypatch.setenv(OWN_VARIABLE, str(tmp_path / "own"))
    monkeypatch.setattr(index, "_said", set())
    index.index.cache_clear()
    torch.set_num_threads(1)
    yield tmp_path / "own"
    index.index.cache_clear()


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the shipped results: empty."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr("vtprune.verify.folders.SHIPPED", folder)
    return folder
