"""The checks of adapters find what is broken, name the field at fault, and pass every adapter that ships."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from tests.testing.broken.adapters import BROKEN, Broken
from vtprune.adapters.llava import ADAPTER as LLAVA
from vtprune.core.errors import UnknownNameError, UnsupportedModelError, VtpruneError
from vtprune.core.lookup import adapter_of, serving
from vtprune.core.plugins import GROUP, registry
from vtprune.core.signals import KINDS
from vtprune.testing import (
    ConformanceError,
    Outcome,
    SubjectError,
    check_adapter,
    checks_for,
    parametrize_with_adapter_checks,
)
from vtprune.testing.adapter_suite.run import trials_of
from vtprune.testing.adapter_suite.signals import needs_of
from vtprune.testing.models import Tiny, tiny_llava
from vtprune.testing.models.families import VARIANTS, variant

EVERY = {check.name for check in checks_for("adapter")}
QUICK = ("llava", "qwen2_5_vl", "llava_next", "internvl")
CASES = [
    pytest.param(name, broken, id=f"{name}-{number}")
    for name, several in BROKEN.items()
    for number, broken in enumerate(several)
]


@pytest.fixture(autouse=True)
def _nothing_left_on_the_models() -> Iterator[None]:
    yield
    vars(tiny_llava().model).pop("vision_seen", None)


@cache
def outcomes_on(tiny: str) -> tuple[Outcome, ...]:
    """Of the shipped adapter of a tiny model, tried on it; skipped where this transformers has no such model class."""
    if not variant(tiny).available:
        pytest.skip(f"transformers has no {variant(tiny).architecture}")
    return check_adapter(variant(tiny).family, variant(tiny).make(), raises=False)


@pytest.mark.parametrize(("name", "broken"), CASES)
def test_a_check_finds_its_broken_adapter(name: str, broken: Broken) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_adapter(broken.adapter, variant(broken.tiny).make(), only=[name])
    (outcome,) = caught.value.outcomes
    assert "likely cause" in outcome.detail
    for text in broken.names:
        assert text in outcome.detail, outcome.detail


@pytest.mark.parametrize("name", BROKEN)
def test_what_the_broken_one_is_made_from_passes(name: str) -> None:
    (outcome,) = [each for each in outcomes_on(BROKEN[name][0].tiny) if each.check.name == name]
    assert outcome.status == "passed"


def test_every_check_has_a_broken_adapter() -> None:
    assert set(BROKEN) == EVERY


@pytest.mark.parametrize(
    "tiny", [pytest.param(tiny, marks=[] if tiny in QUICK else [pytest.mark.slow]) for tiny in VARIANTS]
)
def test_a_shipped_adapter_passes(tiny: str) -> None:
    outcomes = outcomes_on(tiny)
    assert [str(outcome) for outcome in outcomes if outcome.is_fault] == []
    assert {outcome.check.name for outcome in outcomes} == EVERY
    assert sum(outcome.status == "passed" for outcome in outcomes) > len(EVERY) / 2


def test_every_shipped_adapter_is_tried_or_refuses() -> None:
    tried = {each.family for each in VARIANTS.values()}
    shipped = {entry.name for entry in registry().entries("adapter") if entry.origin == GROUP}
    assert shipped - tried == {"mllama"}
    outcomes = check_adapter("llava", only=["adapter_has_a_name_and_a_summary"])
    assert len(outcomes) == sum(each.family == "llava" for each in VARIANTS.values())


def test_an_adapter_that_refuses_its_family_is_checked_without_a_model() -> None:
    outcomes = check_adapter("mllama")
    passed = {outcome.check.name for outcome in outcomes if outcome.status == "passed"}
    assert "adapter_refuses_with_a_reason" in passed
    assert any("refuses every model" in outcome.detail for outcome in outcomes if outcome.status == "not applicable")


def test_each_check_that_applies_is_a_test() -> None:
    mark = parametrize_with_adapter_checks("llava", tiny_llava())
    names, cases = mark.args
    assert names == ("trial", "check")
    applying = {outcome.check.name for outcome in outcomes_on("llava") if outcome.status != "not applicable"}
    assert {case.values[1].name for case in cases} == applying
    assert len({case.id for case in cases}) == len(cases)
    trial, check = cases[0].values
    check(trial)


def test_every_kind_of_signal_is_asked_for() -> None:
    (trial,) = trials_of("llava", tiny_llava())
    assert {need.kind for _, need in needs_of(trial)} == set(KINDS)


def test_expected_failures_are_strict() -> None:
    name = "adapter_cls_row_is_no_patch"
    broken = replace(LLAVA, cls_row=lambda model: 1)
    (outcome,) = check_adapter(broken, tiny_llava(), only=[name], expected_failures={name: "known"})
    assert outcome.status == "expected failure"
    with pytest.raises(ConformanceError, match="passes; remove the declaration"):
        check_adapter(LLAVA, tiny_llava(), only=[name], expected_failures={name: "known"})
    with pytest.raises(VtpruneError, match="adapter_cls_row_is_no_patch"):
        check_adapter(LLAVA, tiny_llava(), expected_failures={"adapter_cls_row_is_no_patc": "known"})
    marked = parametrize_with_adapter_checks(broken, tiny_llava(), expected_failures={name: "known"}).args[1]
    (case,) = [case for case in marked if case.values[1].name == name]
    assert [(mark.name, mark.kwargs) for mark in case.marks] == [("xfail", {"reason": "known", "strict": True})]


def test_what_is_checked_can_be_named() -> None:
    only = ["adapter_accounts_for_one_image"]
    by_path = check_adapter("vtprune.adapters.llava:ADAPTER", "vtprune.testing.models.llava:tiny_llava", only=only)
    by_field = check_adapter(replace(LLAVA, tiny="vtprune.testing.models.llava:tiny_llava"), only=only)
    by_maker = check_adapter(LLAVA, tiny_llava, only=only)
    assert [[each.status for each in found] for found in (by_path, by_field, by_maker)] == [["passed"]] * 3
    with pytest.raises(UnknownNameError, match="llava"):
        check_adapter("llva")
    with pytest.raises(UnknownNameError, match="cannot be imported"):
        check_adapter("vtprune.adapters.llava:ADAPTR")
    with pytest.raises(UnknownNameError, match="adapter_accounts_for_one_image"):
        check_adapter("llava", only=["adapter_accounts_for_one_imag"])
    with pytest.raises(VtpruneError, match="check_component"):
        check_adapter("vtprune.scorers.random:RandomScorer".replace("RandomScorer", "__name__"))


def untidy(**options: Any) -> dict[str, torch.Tensor]:
    """Inputs that are others at each call."""
    return {**tiny_llava().make_inputs(**options), "pixel_values": torch.randn(1, 3, 28, 28)}


def dependent(images: Any = (1,), seed: int = 0, side: Any = "left", text: Any = (2, 6)) -> dict[str, torch.Tensor]:
    """Inputs whose samples depend on how many come before them."""
    return tiny_llava().make_inputs(images, seed=seed * 31 + len(images), side=side, text=text)


def tiny(model: Any = None, make_inputs: Any = None) -> Callable[[], Tiny]:
    """A tiny model with something else in place of its model or of its inputs."""

    def make() -> Tiny:
        sound = tiny_llava()
        return Tiny("t", sound.model if model is None else model, make_inputs or sound.make_inputs)

    return make


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: tiny_llava().model, "a model alone says nothing of its inputs"),
        (object, "it has no `model`"),
        (tiny(torch.nn.Linear(1, 1)), "no transformers model that generates"),
        (tiny(make_inputs=lambda images: {}), "takes no seed, side, text"),
        (tiny(make_inputs=lambda images, seed, side, text: {}), "no input_ids and no attention_mask"),
        (tiny(make_inputs=lambda images, **_: untidy(images=images)), "something else each time"),
        (tiny(make_inputs=dependent), "not sample 0 of seed s"),
    ],
)
def test_a_subject_that_cannot_serve_is_refused(make: Callable[[], Any], reason: str) -> None:
    with pytest.raises(SubjectError, match=reason):
        check_adapter(LLAVA, make())


def test_an_adapter_without_a_tiny_model_says_what_to_give() -> None:
    with pytest.raises(SubjectError, match=r"give `subject=`.*field `tiny`"):
        check_adapter(replace(LLAVA, name="mine"))


def test_serving_is_for_one_model_and_a_while() -> None:
    mine = replace(LLAVA, name="mine")
    model, other = tiny_llava().model, tiny_llava(text="mistral").model
    with serving(model, mine):
        assert adapter_of(model) is mine
        assert adapter_of(other).name == "llava"
    assert adapter_of(model).name == "llava"
    with (
        serving(model, replace(mine, unsupported="it is mine alone")),
        pytest.raises(UnsupportedModelError, match="mine"),
    ):
        adapter_of(model)
