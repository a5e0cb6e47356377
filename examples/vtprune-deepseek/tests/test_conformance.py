"""The reducer and the adapter keep vtprune's contracts."""

from __future__ import annotations

from typing import Any

from vtprune.testing import parametrize_with_adapter_checks, parametrize_with_checks


@parametrize_with_checks("vtprune-deepseek/soft_merge")
def test_the_reducer(component: Any, check: Any) -> None:
    check(component)


@parametrize_with_adapter_checks("vtprune-deepseek/deepseek_vl")
def test_the_adapter(trial: Any, check: Any) -> None:
    """On the tiny model that the adapter names."""
    check(trial)
