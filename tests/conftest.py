"""What holds for the whole suite: fixtures, the settings of hypothesis, and what of the environment is left out."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from vtprune.testing.models import forget_dialogues

# The same examples in every run, and no limit on time: a slow or unlucky machine fails nobody. Settings that a test
# makes start from these. Other examples: `pytest --hypothesis-profile=default`, also with `--hypothesis-seed=N`.
settings.load_profile("ci")

# What tests read from the command line is plain text of the width that they ask for, whoever starts them.
for name in ("COLUMNS", "LINES", "TERMINAL_WIDTH", "FORCE_COLOR", "PY_COLORS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _no_dialogue_left_over() -> Iterator[None]:
    yield
    forget_dialogues()
