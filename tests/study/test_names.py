"""The names that parts share, and that sharing them costs nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys
from inspect import signature

import pytest

from vtprune.cli import study as cli
from vtprune.study.names import EXECUTORS


@pytest.mark.parametrize("name", EXECUTORS)
def test_every_executor_is_a_module_that_runs_jobs(name: str) -> None:
    run = importlib.import_module(f"vtprune.study.executors.{name}").run
    assert list(signature(run).parameters) == ["job", "listener"]


def test_the_command_line_offers_every_executor() -> None:
    assert tuple(choice.value for choice in cli.Executor) == EXECUTORS


@pytest.mark.parametrize("module", ["vtprune.study.names", "vtprune.cli.study"])
def test_importing_them_costs_nothing(module: str) -> None:
    heavy = ("torch", "transformers", "numpy", "pandas")
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
