"""Packaged models of both families with random weights, for what does not need trained ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from training.testbed.families import FAMILIES, SHIPPED
from training.testbed.package import write_folder
from training.testbed.train import initialise


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _package(name: str, root: Path) -> Path:
    """The folder of a model, named like its family."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = FAMILIES[name].build()
        initialise(model)
    folder = root / name
    folder.mkdir(exist_ok=True)
    write_folder(FAMILIES[name], model.state_dict(), folder)
    return folder


@pytest.fixture(scope="session", params=SHIPPED)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _package(request.param, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def mrope_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _package("mrope", tmp_path_factory.mktemp("weights"))
