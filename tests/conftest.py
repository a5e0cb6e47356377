"""Fixtures of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vtprune.testing.models import forget_dialogues


@pytest.fixture(autouse=True)
def _no_dialogue_left_over() -> Iterator[None]:
    yield
    forget_dialogues()
