"""Engines that are wrong on purpose: each is broken in one place, and the cell that covers it fails.

So does the other way round: what is right passes, what is refused is recorded as refused, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from vtprune.core.engine import apply, hooks, masks
from vtprune.core.engine.cache import PrunedLayer
from vtprune.core.engine.flow import Flow
from vtprune.core.errors import BindingError, ComponentError, UnsupportedModeError
from vtprune.testing.models import tiny_llava, tiny_qwen2_5_vl
from vtprune.verify import check as checking
from vtprune.verify import dialogue, plays
from vtprune.verify.check import check
from vtprune.verify.compare import Seen
from vtprune.verify.outcome import Outcome
from vtprune.verify.settings import Setting
from vtprune.verify.subjects import SUBJECTS

DROP, KV, INPUT = (SUBJECTS[name] for name in ("llm.layers[1]", "llm.layers[1:3].kv", "projector.output"))
Break = Callable[[pytest.MonkeyPatch], None]


def embeddings_of_the_first(self: Flow, pair: tuple[Any, ...]) -> tuple[Any, ...]:
    """Renumbered positions: the first ones, whichever tokens are left."""
    return tuple(tensor[:, : self.width] for tensor in pair)


def ungathered(mask: Any, queries: Any, columns: Any, seen: Any) -> Any:
    """The first rows and columns of the mask, whichever tokens are left."""
    rows, width = queries.index.shape[1], columns.shape[-1]
    mask = mask.expand(len(columns), columns.shape[1], -1, -1)
    return mask[:, :, -rows:, :width] & seen[:, :, None, :]


def removes_nothing(*args: Any, **kwargs: Any) -> Any:
    """The report says that tokens went; none did."""
    return lambda states: states


original_evict = PrunedLayer.evict
original_ends = hooks.Engine._model_ends


def other_heads(self: PrunedLayer, keep: Any) -> None:
    original_evict(self, keep.flip(1))


def a_bit_more(self: Any, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
    """The last hidden state, a rounding error larger."""
    output.last_hidden_state = output.last_hidden_state * (1 + 2**-20)
    return original_ends(self, module, args, kwargs, output) or output


BROKEN: dict[str, tuple[str, Any, Break]] = {
    "positions": ("single", DROP, lambda m: m.setattr(Flow, "embeddings", embeddings_of_the_first)),
    "positions at the input": (
        "several_images",
        INPUT,
        lambda m: m.setattr(Flow, "embeddings", embeddings_of_the_first),
    ),
    "mask": ("padded", DROP, lambda m: m.setattr(masks, "_gather", ungathered)),
    "nothing removed": ("single", DROP, lambda m: m.setattr(apply, "removed", removes_nothing)),
    "nothing evicted": ("single", KV, lambda m: m.setattr(PrunedLayer, "evict", lambda self, keep: None)),
    "other heads evicted": ("single", KV, lambda m: m.setattr(PrunedLayer, "evict", other_heads)),
    "other heads in a dialogue": ("dialogue", KV, lambda m: m.setattr(PrunedLayer, "evict", other_heads)),
    "mask in a call": ("padded_right", DROP, lambda m: m.setattr(masks, "_gather", ungathered)),
    "positions in gradients": ("gradient", DROP, lambda m: m.setattr(Flow, "embeddings", embeddings_of_the_first)),
    "positions in bf16": ("bf16", DROP, lambda m: m.setattr(Flow, "embeddings", embeddings_of_the_first)),
    "positions in beams": ("beams", DROP, lambda m: m.setattr(Flow, "embeddings", embeddings_of_the_first)),
    "other heads in sampling": ("sampling", KV, lambda m: m.setattr(PrunedLayer, "evict", other_heads)),
    "other heads under drafts": ("prompt_lookup", KV, lambda m: m.setattr(PrunedLayer, "evict", other_heads)),
    "a rounding error": ("single", DROP, lambda m: m.setattr(hooks.Engine, "_model_ends", a_bit_more)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_engine_fails_and_the_right_one_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mode, subject, broken = BROKEN[name]
    assert check(tiny_llava(), mode, subject) == Outcome("pass")
    broken(monkeypatch)
    outcome = check(tiny_llava(), mode, subject)
    assert outcome.status == "fail"
    assert ("keeping everything" if name == "a rounding error" else "masked reference") in outcome.reason


def test_wrong_multimodal_positions_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flow, "embeddings", embeddings_of_the_first)
    assert check(tiny_qwen2_5_vl(), "single", DROP).status == "fail"


@pytest.mark.parametrize("mode", ["single", "dialogue"])
def test_a_recipe_that_removes_nothing_fails(mode: str) -> None:
    idle = replace(DROP, drop={"scorer": "random", "budget": 1.0})
    outcome = check(tiny_llava(), mode, idle)
    assert outcome == Outcome("fail", "the stage at llm.layers[1] removed none of 16 tokens")


def test_a_recipe_that_should_keep_all_and_does_not_fails() -> None:
    eager = replace(DROP, keep={"scorer": "random", "selector": {"name": "threshold", "value": 0.5}})
    outcome = check(tiny_llava(), "single", eager)
    assert outcome.status == "fail"
    assert "tokens, not all" in outcome.reason


def test_choosing_anew_at_every_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = iter(range(1000))
    monkeypatch.setattr(checking, "kept", lambda report: next(reports))
    assert check(tiny_llava(), "no_cache", DROP) == Outcome("fail", "later steps kept other tokens of the same prompt")


# -- refusals, and what is none ---------------------------------------------------------------------------------------


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Exception], None]]:
    """Make the engine raise where a stage would drop."""

    def arrange(error: Exception) -> None:
        def raises(*args: Any, **kwargs: Any) -> Any:
            raise error

        monkeypatch.setattr(hooks, "drop_hidden", raises)

    return arrange


@pytest.mark.parametrize(
    "error", [UnsupportedModeError("not this way\n  - at 0x7f"), BindingError(["not this way at 0x7f"], "r", "m")]
)
def test_a_refusal_is_recorded_with_its_reason(raising: Any, error: Exception) -> None:
    raising(error)
    outcome = check(tiny_llava(), "single", DROP)
    assert outcome.status == "refused"
    assert "not this way" in outcome.reason
    assert "0x7f" not in outcome.reason
    assert "\n" not in outcome.reason


@pytest.mark.parametrize("mode", ["single", "dialogue", "gradient"])
@pytest.mark.parametrize("error", [ComponentError("NaN scores"), RuntimeError("shapes"), IndexError("5")])
def test_any_other_error_is_a_failure_with_its_text(raising: Any, error: Exception, mode: str) -> None:
    raising(error)
    assert check(tiny_llava(), mode, DROP) == Outcome("fail", f"{type(error).__name__}: {error}")


def test_a_refusal_does_not_excuse_what_was_wrong_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeping everything is compared before removal may be refused."""
    monkeypatch.setattr(hooks.Engine, "_model_ends", a_bit_more)
    assert check(tiny_llava(), "single", DROP).status == "fail"


def test_a_cache_that_cannot_be_shortened_is_refused_also_where_transformers_fails() -> None:
    """Quantized caches need a package that is not here, so the unhooked model fails as well."""
    for mode in ("quantized_cache", "static_cache"):
        assert check(tiny_llava(), mode, DROP).status == "refused"


# -- upstream ---------------------------------------------------------------------------------------------------------


def setting(play: Any, expected: Any = None) -> Setting:
    tiny = tiny_llava()
    return Setting(tiny.model, tiny.make_inputs((1,)), ((play, expected or play),))


def outcome_of(arranged: Setting) -> Outcome:
    return checking._outcome(lambda: checking.check_setting(arranged, DROP, {}))


def test_what_fails_without_vtprune_is_upstream() -> None:
    def fails(model: Any, inputs: Any) -> Seen:
        raise KeyError("cache_position")

    assert outcome_of(setting(fails)) == Outcome("upstream", "KeyError: 'cache_position'")


def test_what_contradicts_itself_without_vtprune_is_upstream() -> None:
    def drifting(model: Any, inputs: Any) -> Seen:
        seen = plays.forward(model, inputs)
        assert seen.forward is not None
        return Seen(forward=seen.forward + 0.01)

    outcome = outcome_of(setting(drifting, plays.forward))
    assert outcome.status == "upstream"
    assert "against its own ordinary way: logits of the prompt by 1.0e-02" in outcome.reason


def test_what_vtprune_refuses_is_refused_even_if_it_fails_upstream() -> None:
    outcome = outcome_of(setting(lambda model, inputs: plays.generate(model, inputs, cache_implementation="no-such")))
    assert outcome.status == "refused"
    assert "cache_implementation='no-such'" in outcome.reason


def test_a_dialogue_that_transformers_cannot_continue_is_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> Any:
        raise StopIteration("no more images")

    monkeypatch.setattr(dialogue, "continued", fails)
    assert check(tiny_llava(), "dialogue", DROP) == Outcome("upstream", "StopIteration: no more images")


# -- nothing to show --------------------------------------------------------------------------------------------------


def test_a_family_without_video_has_nothing_to_try() -> None:
    assert check(tiny_llava(), "video", DROP) == Outcome("absent", "no video among the inputs of its tiny model")


def test_removal_behind_a_sliding_window_is_no_pass() -> None:
    tiny = tiny_llava(text="mistral", sliding_window=2)
    site = replace(SUBJECTS["llm.layers[0].kv"], name="llm.layers[3].kv")
    outcome = check(tiny, "single", site)
    assert outcome.status == "absent"
    assert "does not show" in outcome.reason


def test_the_shared_model_is_left_as_it_was() -> None:
    tiny = tiny_llava()
    inputs = tiny.make_inputs((1,))
    before = plays.forward(tiny.model, inputs).forward
    for mode in ("bf16", "gradient", "checkpointing", "assisted", "static_cache"):
        check(tiny, mode, DROP)
    assert torch.equal(plays.forward(tiny.model, inputs).forward, before)  # type: ignore[arg-type]
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())
    assert not tiny.model.training
