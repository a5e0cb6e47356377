"""Plugins written to disk, each found through an entry point of its own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from vtprune.core.plugins import GROUP

WritePlugin = Callable[..., EntryPoint]


@pytest.fixture
def write_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WritePlugin]:
    """Writes a module and returns an entry point of the distribution ``dist`` 1.2 that names it."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(
        module: str,
        source: str,
        dist: str | None = "acme",
        name: str = "plugin",
        requires: Sequence[str] | None = None,
        attribute: str = "",
    ) -> EntryPoint:
        (tmp_path / f"{module}.py").write_text(source)
        importlib.invalidate_caches()
        written.append(module)
        point = EntryPoint(name, module + attribute, GROUP)
        # importlib.metadata attaches the distribution in the same way; there is no public constructor for it
        vars(point)["dist"] = SimpleNamespace(name=dist, version="1.2", requires=requires) if dist else None
        return point

    yield write
    for module in written:
        sys.modules.pop(module, None)
