from __future__ import annotations

import os

import pytest

from tests.plugins.site import Site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Plugin packages, built and installed once for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "plugin-site"
    shared.mkdir(exist_ok=True)
    return Site(shared)
