"""The fresh environment, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.fresh import Fresh, wheels


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheels of vtprune and of both packages."""
    for needed in ("pip", "hatchling"):
        pytest.importorskip(needed, reason=f"building a wheel without network needs {needed}")
    return wheels(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="session")
def fresh(built: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """An environment with vtprune and both packages; nobody changes what is installed."""
    return Fresh.make(tmp_path_factory.mktemp("fresh"), built)
