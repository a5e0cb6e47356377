"""Under torch.compile a pruned model gives what it gives without, whenever it was compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import vtprune
from tests.robustness.scenes import DROP, STAGES, logits, recipe, tokens
from vtprune.testing.models import Tiny, tiny_llava, tiny_qwen2_5_vl

WAYS = ("model", "forward", "in place")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(model: Any, way: str, backend: str) -> Callable[..., Any]:
    """What a user calls after compiling ``model`` in one of three ways."""
    if way == "in place":
        model.compile(backend=backend)
        return model
    made: Callable[..., Any] = torch.compile(model if way == "model" else model.forward, backend=backend)
    return made


CASES = [
    pytest.param(build, way, backend, id=f"{build.__name__}-{way}-{backend}", marks=[pytest.mark.slow] * slow)
    for build, way, backend, slow in [
        (tiny_llava, "model", "eager", False),
        *((tiny_llava, way, "eager", True) for way in WAYS[1:]),
        (tiny_llava, "model", "aot_eager", True),
        *((tiny_qwen2_5_vl, "model", backend, True) for backend in ("eager", "aot_eager")),
    ]
]


@pytest.mark.parametrize(("build", "way", "backend"), CASES)
def test_a_model_compiled_and_run_before_prunes_inside_and_not_after(build: Any, way: str, backend: str) -> None:
    """Code compiled without the hooks would run on without them, and silently keep everything."""
    tiny: Tiny = build.__wrapped__()
    model, inputs = tiny.model, tiny.make_inputs((1, 2))
    with torch.no_grad():
        plain = logits(model, inputs)
        with vtprune.prune(model, recipe(DROP)):
            pruned = logits(model, inputs)
        call = compiled(model, way, backend)
        torch.testing.assert_close(call(**inputs).logits, plain, rtol=0, atol=1e-5)
        with vtprune.prune(model, recipe(DROP)) as run:
            torch.testing.assert_close(call(**inputs).logits, pruned, rtol=0, atol=1e-5)
            torch.testing.assert_close(call(**inputs).logits, pruned, rtol=0, atol=1e-5)
        torch.testing.assert_close(call(**inputs).logits, plain, rtol=0, atol=1e-5)
    assert len(run.reports) == 2
    assert (plain - pruned).abs().max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("stages", STAGES)
def test_a_compiled_model_can_be_passed_itself(stages: str) -> None:
    tiny = tiny_llava.__wrapped__()
    inputs = tiny.make_inputs((1,))
    with vtprune.prune(tiny.model, recipe(*STAGES[stages])):
        expected = logits(tiny.model, inputs)
        generated = tokens(tiny.model, inputs, 3)
    wrapper: Any = torch.compile(tiny.model, backend="eager")
    with vtprune.prune(wrapper, recipe(*STAGES[stages])) as run:
        with torch.no_grad():
            torch.testing.assert_close(wrapper(**inputs).logits, expected, rtol=0, atol=1e-5)
        assert torch.equal(tokens(wrapper, inputs, 3), generated)
    assert run.model is tiny.model
    assert run.report.model == "LlavaForConditionalGeneration"


def test_a_compiled_model_is_unwrapped() -> None:
    model = tiny_llava().model
    with vtprune.prune(torch.compile(model, backend="eager"), recipe(DROP)) as run:
        pass
    assert run.model is model


def test_nothing_is_thrown_away_where_nothing_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: calls.append(1))
    with vtprune.prune(tiny_llava().model, recipe(DROP)):
        pass
    assert not calls
