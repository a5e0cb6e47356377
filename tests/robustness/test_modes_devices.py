"""Models spread over devices, or offloaded: what is pruned there is what is pruned on one device."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import vtprune
from tests.robustness.places import dispatched
from tests.robustness.scenes import DROP, EVICT, FAMILIES, INPUT_DROP, logits, recipe, reference_of, tokens
from tests.robustness.test_assisted import repeating
from vtprune.core.engine.devices import cuda_devices, without_weights
from vtprune.core.engine.flow import Flow
from vtprune.core.errors import UnsupportedModeError
from vtprune.core.lookup import locate
from vtprune.testing.models import Tiny, tiny_llava
from vtprune.testing.models.families import VARIANTS
from vtprune.testing.pretend_device import FAR, MixedDevicesError, pretended_device

TOLERANCE: dict[str, Any] = {"rtol": 0.0, "atol": 1e-5}
"""The second device's attention is computed by another kernel."""
REINDEX = {"site": "llm.layers[2]", "scorer": "attention", "budget": 0.4, "positions": "reindex"}
KEYS = {"site": "llm.layers[3]", "scorer": "key_norm", "budget": 0.4}
RAGGED = {**EVICT, "selector": {"name": "threshold", "value": 1.0, "relative": "mean"}}
TEXT = {"site": "llm.layers[3]", "scorer": "similarity", "budget": 0.4}
MERGE = {"site": "llm.layers[2]", "scorer": "attention", "budget": 0.5, "reducer": "merge"}
TOWER = {"site": "vision.layers[1]", "scorer": "random", "budget": 0.6, "reducer": "merge"}
TOWER_READ = {"site": "vision.layers[1]", "scorer": {"name": "cls_attention", "layers": [0]}, "budget": 0.6}
OUTPUT = {"site": "vision.output", "scorer": {"name": "cls_attention", "layers": [-2]}, "budget": 0.5}
RECIPES: dict[str, list[dict[str, Any]]] = {
    "drop": [DROP],
    "both": [DROP, EVICT],
    "ragged": [RAGGED],
    "input_then_keys": [INPUT_DROP, KEYS],
    "reindex": [REINDEX],
    "reindex_evict": [REINDEX, {**EVICT, "site": "llm.layers[2:].kv"}],
    "text": [TEXT],
    "merge": [MERGE],
}
VISION: dict[str, list[dict[str, Any]]] = {
    "tower": [TOWER],
    "tower_read": [TOWER_READ, KEYS],
    "output": [OUTPUT],
    "output_merge": [{**OUTPUT, "scorer": "random", "reducer": "merge"}],
}
PLACES = ("upper", "lower", "alternate", "tower", "all but the head")


def blocks(model: Any, place: str) -> list[str]:
    """Paths of the modules that compute on the second device."""
    parts = locate(model)
    chosen: dict[str, tuple[nn.Module, ...]] = {
        "upper": parts.layers[parts.depth // 2 :],
        "lower": parts.layers[:2],
        "alternate": parts.layers[1::2],
        "tower": (parts.vision_tower,),
        "half the tower": parts.vision_layers[2:],
        "all but the head": (parts.base,),
        "what follows the decoder": (parts.language_model.norm, model.get_output_embeddings()),
    }
    return [path for path, module in model.named_modules() if any(module is wanted for wanted in chosen[place])]


def of(name: str, attention: Any = "sdpa") -> Tiny:
    """A tiny model of the table, or a skip where the installed transformers lacks it."""
    if not VARIANTS[name].available:
        pytest.skip(f"this transformers has no {VARIANTS[name].architecture}")
    return VARIANTS[name].make(attention)


def kept(run: Any) -> list[list[list[int]]]:
    return [[rows.tolist() for rows in event.kept] for event in run.report.events]


@torch.no_grad()
def play(model: Any, inputs: Any) -> tuple[list[Tensor], list[int]]:
    """Logits of the prompt and of two decoding steps by hand, and the slots that each cache layer then stores."""
    output = model(**inputs, use_cache=True)
    seen, mask, cache = [output.logits], inputs["attention_mask"], output.past_key_values
    for token in (7, 9):
        mask = torch.cat([mask, mask[:, -1:]], 1)
        at = mask.sum(1, keepdim=True) - 1  # for M-RoPE too: what matters is that every run gets the same
        output = model(
            input_ids=torch.full((len(mask), 1), token),
            attention_mask=mask,
            position_ids=at.expand(3, -1, -1) if hasattr(model.model, "rope_deltas") else at,
            past_key_values=cache,
            use_cache=True,
        )
        seen.append(output.logits)
    return seen, [layer.stored for layer in cache.layers]


def assert_same_as_on_one_device(tiny: Tiny, stages: list[dict[str, Any]], place: str, **options: Any) -> None:
    """A padded batch: logits of prompt and decoding by hand, what was kept and is stored, and what `generate` makes."""
    inputs = tiny.make_inputs((1, 2))
    with vtprune.prune(tiny.model, recipe(*stages)) as near:
        expected, lengths = play(tiny.model, inputs)
        chosen = kept(near)
        generated = tokens(tiny.model, inputs, 5, **options)
    with dispatched(tiny.model, blocks(tiny.model, place), values=True) as model:
        with vtprune.prune(model, recipe(*stages)) as far:
            seen, stored = play(model, inputs)
            torch.testing.assert_close(seen, expected, **TOLERANCE)
            assert stored == lengths
            assert kept(far) == chosen
            assert torch.equal(tokens(model, inputs, 5, **options), generated)
        unpruned = logits(model, inputs)
    torch.testing.assert_close(unpruned, logits(tiny.model, inputs), **TOLERANCE)
    assert min(lengths) < inputs["input_ids"].shape[1]


# -- the stand-in ----------------------------------------------------------------------------------------------------


def test_an_engine_that_forgets_a_device_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flow, "brought", lambda self, tensor, device: tensor)
    with pytest.raises(MixedDevicesError):
        assert_same_as_on_one_device(tiny_llava(), [EVICT], "upper")


# -- two devices with values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("stages", RECIPES)
def test_llava_over_two_devices(stages: str, place: str) -> None:
    assert_same_as_on_one_device(tiny_llava(), RECIPES[stages], place)


@pytest.mark.parametrize("place", ["tower", "half the tower", "upper", "all but the head"])
@pytest.mark.parametrize("stages", VISION)
def test_vision_stages_over_two_devices(stages: str, place: str) -> None:
    assert_same_as_on_one_device(tiny_llava(), VISION[stages], place)


@pytest.mark.parametrize("place", ["upper", "alternate"])
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("qwen2_5_vl", "both"),
        ("qwen2_5_vl", "reindex"),
        ("qwen3_vl", "drop"),  # DeepStack
        ("qwen3_vl", "both"),
        ("gemma3", "both"),  # sliding windows, two rotary embeddings
        ("gemma3", "reindex"),
        ("gemma4", "input_then_drop"),  # layers that share keys and values
    ],
)
def test_other_families_over_two_devices(name: str, stages: str, place: str) -> None:
    chosen = RECIPES.get(stages, [INPUT_DROP, {**DROP, "budget": 0.3}])
    assert_same_as_on_one_device(of(name), chosen, place)


@pytest.mark.parametrize("stages", ["both", "ragged", "reindex"])
def test_eager_attention_over_two_devices(stages: str) -> None:
    assert_same_as_on_one_device(tiny_llava("eager"), RECIPES[stages], "alternate")


@pytest.mark.parametrize("stages", ["both", "ragged"])
def test_drafts_and_beams_over_two_devices(stages: str) -> None:
    tiny, options = tiny_llava(), {"num_beams": 2}
    assert_same_as_on_one_device(tiny, RECIPES[stages], "upper", **options)
    inputs, drafts = repeating(tiny), {"prompt_lookup_num_tokens": 4}
    with vtprune.prune(tiny.model, recipe(*RECIPES[stages])):
        generated = tokens(tiny.model, inputs, 8, **drafts)
    with (
        dispatched(tiny.model, blocks(tiny.model, "upper"), values=True) as model,
        vtprune.prune(model, recipe(*RECIPES[stages])),
    ):
        assert torch.equal(tokens(model, inputs, 8, **drafts), generated)


@pytest.mark.parametrize("family", FAMILIES)
def test_removal_over_two_devices_equals_the_masked_reference(family: str) -> None:
    tiny = FAMILIES[family]()
    inputs = tiny.make_inputs((1, 2))
    with (
        dispatched(tiny.model, blocks(tiny.model, "alternate"), values=True) as model,
        vtprune.prune(model, recipe(DROP)) as run,
    ):
        pruned = logits(model, inputs)[:, -1]
    with reference_of(tiny.model, run.report, inputs):
        torch.testing.assert_close(pruned, logits(tiny.model, inputs)[:, -1], **TOLERANCE)


# -- the meta device itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stages", ["drop", "below", "reindex", "keys_below"])
def test_shapes_and_cache_lengths_with_the_upper_half_on_meta(family: str, stages: str) -> None:
    """Everything that decides runs in the lower half; the values of the upper half vanish, torch's checks do not."""
    tiny = FAMILIES[family]()
    below = {
        "drop": [DROP],
        "below": [DROP, {**EVICT, "site": "llm.layers[0:2].kv"}],
        "reindex": [{**REINDEX, "site": "llm.layers[1]"}],
        "keys_below": [INPUT_DROP, {**KEYS, "site": "llm.layers[1]"}],
    }[stages]
    inputs = tiny.make_inputs((1, 2))

    with vtprune.prune(tiny.model, recipe(*below)):
        expected, lengths = play(tiny.model, inputs)
    far = [*blocks(tiny.model, "upper"), *blocks(tiny.model, "what follows the decoder")]
    with dispatched(tiny.model, far, values=False) as model:
        assert {str(parameter.device) for parameter in model.parameters()} == {"cpu", "meta"}
        with vtprune.prune(model, recipe(*below)):
            seen, stored = play(model, inputs)
    assert all(step.is_meta for step in seen)
    assert [step.shape for step in seen] == [step.shape for step in expected]
    assert stored == lengths
    assert min(lengths) < inputs["input_ids"].shape[1]


# -- accelerate itself -------------------------------------------------------------------------------------------------


def device_map(module: nn.Module, far: list[str], device: str, path: str = "") -> dict[str, str]:
    """Like transformers' own: no module inside another."""
    if not path or any(block.startswith(f"{path}.") for block in far):
        found: dict[str, str] = {}
        for name, child in module.named_children():
            found |= device_map(child, far, device, f"{path}.{name}" if path else name)
        return found
    return {path: device if path in far else "cpu"}


@contextmanager
def by_accelerate(original: Any, way: str, folder: Path) -> Iterator[Any]:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    model = copy.deepcopy(original)
    upper = blocks(model, "upper")
    if way == "cpu_offload":
        yield accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    elif way == "disk_offload":
        yield accelerate.disk_offload(model, str(folder), execution_device=torch.device("cpu"))
    elif way == "upper half on disk":
        places = device_map(model, upper, "disk")
        yield accelerate.dispatch_model(
            model, places, main_device="cpu", offload_dir=str(folder), skip_keys="past_key_values"
        )
    else:
        with pretended_device():
            places = device_map(model, upper, "meta")
            yield accelerate.dispatch_model(model, places, main_device="cpu", skip_keys="past_key_values")


@pytest.mark.parametrize("way", ["cpu_offload", "disk_offload", "upper half on disk", "upper half elsewhere"])
@pytest.mark.parametrize("stages", ["both", "reindex", "input_then_keys"])
@pytest.mark.parametrize("family", FAMILIES)
def test_dispatched_by_accelerate(family: str, stages: str, way: str, tmp_path: Path) -> None:
    tiny = FAMILIES[family]()
    inputs = tiny.make_inputs((1, 2))
    with vtprune.prune(tiny.model, recipe(*RECIPES[stages])):
        expected, generated = logits(tiny.model, inputs), tokens(tiny.model, inputs)
    with by_accelerate(tiny.model, way, tmp_path) as model:
        before = {name: module.forward for name, module in model.named_modules()}
        assert any(parameter.is_meta for parameter in model.parameters())
        with vtprune.prune(model, recipe(*RECIPES[stages])):
            exact: dict[str, Any] = {"rtol": 0.0, "atol": 0.0} if way != "upper half elsewhere" else TOLERANCE
            torch.testing.assert_close(logits(model, inputs), expected, **exact)
            assert torch.equal(tokens(model, inputs), generated)
        assert {name: module.forward for name, module in model.named_modules()} == before


def test_stages_inside_an_offloaded_tower(tmp_path: Path) -> None:
    tiny = tiny_llava()
    inputs = tiny.make_inputs((2, 1))
    for stages in VISION.values():
        with vtprune.prune(tiny.model, recipe(*stages)):
            expected = logits(tiny.model, inputs)
        with by_accelerate(tiny.model, "cpu_offload", tmp_path) as model, vtprune.prune(model, recipe(*stages)):
            assert torch.equal(logits(model, inputs), expected)


# -- one device --------------------------------------------------------------------------------------------------------


class Copies(TorchDispatchMode):
    """Counts what is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func._schema.name] += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("stages", ["drop", "both"])
def test_decoding_on_one_device_copies_nothing(stages: str) -> None:
    tiny = tiny_llava()
    inputs = tiny.make_inputs((1,))

    def copies_of_a_step() -> int:
        with torch.no_grad():
            cache = tiny.model(**inputs, use_cache=True).past_key_values
            step = {"input_ids": torch.tensor([[7]]), "past_key_values": cache, "use_cache": True}
            with Copies() as copies:
                tiny.model(**step)
        return copies.seen["aten::_to_copy"]

    plain = copies_of_a_step()
    with vtprune.prune(tiny.model, recipe(*RECIPES[stages])):
        assert copies_of_a_step() == plain


# -- where weights lie -------------------------------------------------------------------------------------------------


def small(hook: Any = None) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    model[1].to("meta")
    if hook is not None:
        model[1]._hf_hook = hook
    return model


@pytest.mark.parametrize(
    ("hook", "missing"),
    [
        (None, "1.0.weight"),
        (SimpleNamespace(offload=False, execution_device="cpu"), "1.0.weight"),
        (SimpleNamespace(offload=True, execution_device="cpu"), None),
        (SimpleNamespace(offload=False, execution_device=torch.device("meta")), None),
        (SimpleNamespace(hooks=[SimpleNamespace(), SimpleNamespace(offload=True)]), None),
    ],
)
def test_weights_that_nothing_loads_are_found(hook: Any, missing: str | None) -> None:
    assert without_weights(small(hook)) == missing


def test_cuda_devices_are_those_of_parameters_and_of_hooks() -> None:
    assert cuda_devices(small()) == frozenset()
    assert cuda_devices(small(SimpleNamespace(execution_device=1))) == {torch.device("cuda", 1)}
    assert cuda_devices(small(SimpleNamespace(execution_device="cuda:0"))) == {torch.device("cuda", 0)}


@pytest.mark.parametrize("part", ["decoder layer", "tower", "head"])
def test_a_part_without_weights_is_refused(part: str) -> None:
    model = tiny_llava.__wrapped__().model
    modules: dict[str, Callable[[], Any]] = {
        "decoder layer": lambda: model.get_decoder().layers[2],
        "tower": lambda: model.model.vision_tower,
        "head": lambda: model.lm_head,
    }
    modules[part]().to("meta")
    with (
        pytest.raises(UnsupportedModeError, match=r"^parameter '.*' of Llava.* on the meta device.*no hook.*loads it"),
        vtprune.prune(model, recipe(DROP)),
    ):
        raise AssertionError


def test_a_tensor_that_is_there_already_is_not_copied() -> None:
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    flow = Flow(1, 3, 0, torch.device("cpu"), nothing, nothing, nothing)
    mask: Tensor = torch.ones(1, 1, 3, 3)
    assert flow.brought(mask, mask.device) is mask
    assert flow.brought(mask, FAR) is flow.brought(mask, FAR)
    assert flow.queries() is flow.queries(torch.device("cpu"))
    assert flow.queries(FAR).index.is_meta
