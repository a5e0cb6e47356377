"""Plugins for the command line: written to disk, and installed as far as this process can see."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest

from tests.core.conftest import write_plugin
from vtprune.cli.source import scope
from vtprune.core import plugins, sources
from vtprune.core.plugins import Discovery

Install = Callable[..., Discovery]
__all__ = ["Install", "write_plugin"]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes some entry points the installed ones; the process's switches hold for them."""
    discover = plugins.discover

    # Modules of one name are written anew from test to test; a process reads each but once.
    sources.spec_of.cache_clear()
    scope.parsed.cache_clear()

    def installed(*points: EntryPoint) -> Discovery:
        monkeypatch.setattr(plugins, "discover", lambda environment=None: discover(points, environment))
        found = discover(points, os.environ)
        monkeypatch.setattr(plugins, "_installed", lambda: found)
        return found

    return installed
