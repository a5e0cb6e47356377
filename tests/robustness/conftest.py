"""Models of both families for the robustness tests."""

from __future__ import annotations

import pytest
import torch

from tests.robustness.scenes import ATTENTIONS, FAMILIES, warm
from vtprune.testing.models import Tiny


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=FAMILIES)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """A tiny model of each family, with sdpa attention."""
    return warm(FAMILIES[request.param]())


@pytest.fixture(params=[f"{family}-{attention}" for family in FAMILIES for attention in ATTENTIONS])
def tiny_any(request: pytest.FixtureRequest) -> Tiny:
    """A tiny model of each family and attention implementation."""
    family, attention = request.param.rsplit("-", 1)
    return warm(FAMILIES[family](attention))
