"""The masked reference is right, and dropping tokens shows on the tiny models: checked against cache-free attention."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vtprune.testing.models import Tiny, tiny_llava, tiny_qwen2_5_vl, vision_mask
from vtprune.testing.reference import Greedy, MaskedReference, from_layer, greedy_steps, random_keep

LAYERS, KV_HEADS, STEPS = 4, 2, 20
IMAGES = (1, 2, 0, 1)
WINDOW = 12
WINDOWED = {
    f"llava-mistral-{attn}-window": lambda attn=attn: tiny_llava(attn, "mistral", sliding_window=WINDOW)
    for attn in ("sdpa", "eager")
}
FULL = {
    "llava-llama-sdpa": tiny_llava,
    "llava-llama-eager": lambda: tiny_llava("eager"),
    "llava-mistral-sdpa": lambda: tiny_llava(text="mistral"),
    "qwen2_5_vl-sdpa": tiny_qwen2_5_vl,
    "qwen2_5_vl-eager": lambda: tiny_qwen2_5_vl("eager"),
}
BUILDERS = FULL | WINDOWED


@pytest.fixture(params=BUILDERS)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return BUILDERS[request.param]()


@pytest.fixture(params=FULL)
def unwindowed(request: pytest.FixtureRequest) -> Tiny:
    return FULL[request.param]()


def per_head_keep(vision: Tensor, seed: int) -> Tensor:
    """Text and a different half of the vision tokens for each KV head: bool `[batch, kv_head, token]`."""
    return torch.stack([random_keep(vision, 0.5, seed + head) for head in range(KV_HEADS)], dim=1)


def largest_difference(one: Greedy, other: Greedy) -> Tensor:
    """Greatest absolute difference of the logits: float `[step, batch]`."""
    return torch.stack([(a - b).abs().amax(-1) for a, b in zip(one.logits, other.logits, strict=True)])


class DecoderCalls:
    """Record what the decoder is given at every call: merged embeddings and positions, concatenated over tokens."""

    def __init__(self, tiny: Tiny) -> None:
        self.decoder = tiny.model.get_decoder()
        self.embeds: list[Tensor] = []
        self.positions: list[Tensor] = []

    def __enter__(self) -> DecoderCalls:
        self.handle = self.decoder.register_forward_pre_hook(self._record, with_kwargs=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self.handle.remove()

    def _record(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        embeds = (
            kwargs["inputs_embeds"]
            if kwargs.get("inputs_embeds") is not None
            else module.embed_tokens(kwargs["input_ids"])
        )
        positions = kwargs["position_ids"]
        self.embeds.append(embeds)
        self.positions.append(positions[-3:].expand(3, -1, -1) if positions.dim() == 3 else positions)

    def sequence(self) -> tuple[Tensor, Tensor]:
        return torch.cat(self.embeds, dim=1), torch.cat(self.positions, dim=-1)


@torch.no_grad()
def logits_without_cache(
    tiny: Tiny, hidden: Tensor, positions: Tensor, masks: list[Tensor], drop: dict[int, Tensor]
) -> Tensor:
    """Run the decoder layer by layer without a cache or hooks: float `[batch, token, vocabulary]`.

    `masks[layer]` is what the layer's queries see, bool `[batch, 1 or head, query, key]`; `drop[layer]` holds the
    indices of the tokens that enter the layer, the others being removed for good.
    """
    decoder = tiny.model.get_decoder()
    for index, layer in enumerate(decoder.layers):
        if index in drop:
            hidden, positions = hidden[:, drop[index]], positions[..., drop[index]]
        additive = torch.zeros(masks[index].shape).masked_fill(~masks[index], torch.finfo(torch.float32).min)
        hidden = layer(hidden, attention_mask=additive, position_embeddings=decoder.rotary_emb(hidden, positions))
    return tiny.model.lm_head(decoder.norm(hidden))


def causal(tokens: int) -> Tensor:
    return torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril()


@pytest.mark.parametrize("images", [(1,), IMAGES], ids=["single", "padded"])
def test_hiding_nothing_changes_no_bit(tiny: Tiny, images: tuple[int, ...]) -> None:
    inputs = tiny.make_inputs(images)
    all_kept = torch.ones_like(vision_mask(inputs))
    all_cached = dict.fromkeys(range(LAYERS), all_kept[:, None].repeat(1, KV_HEADS, 1))

    plain = greedy_steps(tiny.model, inputs, STEPS)
    with MaskedReference(tiny.model, from_layer(tiny.model, all_kept, 0), all_cached):
        hidden = greedy_steps(tiny.model, inputs, STEPS)

    assert torch.equal(plain.tokens, hidden.tokens)
    assert largest_difference(plain, hidden).max() == 0


@pytest.mark.parametrize("first", [0, 2])
def test_hiding_equals_a_physically_shorter_prompt(unwindowed: Tiny, first: int) -> None:
    inputs = unwindowed.make_inputs(IMAGES)
    keep = random_keep(vision_mask(inputs), 0.5, seed=0)
    with (
        MaskedReference(unwindowed.model, from_layer(unwindowed.model, keep, first)),
        DecoderCalls(unwindowed) as calls,
    ):
        reference = greedy_steps(unwindowed.model, inputs, 1).prefill
    embeds, positions = calls.sequence()

    for sample, real in enumerate(inputs["attention_mask"].bool()):
        kept_of_real = keep[sample, real].nonzero()[:, 0]
        lengths = [int(real.sum()) if layer < first else len(kept_of_real) for layer in range(LAYERS)]
        shorter = logits_without_cache(
            unwindowed,
            embeds[sample : sample + 1, real],
            positions[..., sample : sample + 1, :][..., real],
            [causal(length) for length in lengths],
            {first: kept_of_real},
        )
        torch.testing.assert_close(shorter[0, -1], reference[sample], rtol=0, atol=1e-5)


def test_every_decoding_step_equals_attention_without_cache(tiny: Tiny) -> None:
    inputs = tiny.make_inputs(IMAGES)
    real, prompt = inputs["attention_mask"].bool(), inputs["input_ids"].shape[1]
    keep = random_keep(vision_mask(inputs), 0.6, seed=0)
    hide = {2: keep, 3: keep & random_keep(vision_mask(inputs), 0.6, seed=1)}
    hide_kv = {layer: per_head_keep(vision_mask(inputs), seed=layer) for layer in (0, 1, 3)}
    with MaskedReference(tiny.model, hide, hide_kv), DecoderCalls(tiny) as calls:
        reference = greedy_steps(tiny.model, inputs, STEPS)

    total = prompt + STEPS - 1
    seen = causal(total) & torch.cat([real, real.new_ones(len(real), STEPS - 1)], dim=1)[:, None, None, :]
    if getattr(tiny.model.config.text_config, "sliding_window", None) == WINDOW:
        seen = seen & torch.ones(total, total, dtype=torch.bool).triu(1 - WINDOW)
    masks = []
    for layer in range(LAYERS):
        mask = seen.repeat(1, 4, 1, 1)
        if layer in hide:
            mask[..., :prompt] &= hide[layer][:, None, None, :]
        if layer in hide_kv:
            mask[:, :2, prompt:, :prompt] &= hide_kv[layer][:, :1, None, :]
            mask[:, 2:, prompt:, :prompt] &= hide_kv[layer][:, 1:, None, :]
        masks.append(mask | torch.eye(total, dtype=torch.bool) & ~mask.any(-1, keepdim=True))
    logits = logits_without_cache(tiny, *calls.sequence(), masks, {})[:, prompt - 1 :]

    torch.testing.assert_close(torch.stack(reference.logits, dim=1), logits, rtol=0, atol=1e-5)


def test_hiding_shows_where_there_are_images_and_only_there(tiny: Tiny) -> None:
    inputs = tiny.make_inputs(IMAGES)
    keep = random_keep(vision_mask(inputs), 0.5, seed=0)
    plain = greedy_steps(tiny.model, inputs, STEPS)
    with MaskedReference(tiny.model, from_layer(tiny.model, keep, 0)):
        hidden = greedy_steps(tiny.model, inputs, STEPS)

    prefill = largest_difference(plain, hidden)[0]
    has_image = torch.tensor(IMAGES) > 0
    assert (prefill[has_image] > 0.1).all()
    assert (largest_difference(plain, hidden)[:, ~has_image] == 0).all()


def test_evicting_from_the_cache_shows_from_the_second_token_on(tiny: Tiny) -> None:
    inputs = tiny.make_inputs(IMAGES)
    vision = vision_mask(inputs)
    evict = dict.fromkeys(range(LAYERS), per_head_keep(vision, seed=0))
    plain = greedy_steps(tiny.model, inputs, STEPS)
    with MaskedReference(tiny.model, hide_kv=evict):
        evicted = greedy_steps(tiny.model, inputs, STEPS)

    difference = largest_difference(plain, evicted)
    has_image = torch.tensor(IMAGES) > 0
    assert (difference[0] == 0).all()
    assert (difference[:, ~has_image] == 0).all()
    assert (difference[1:, has_image].amax(0) > 0.1).all()


def test_each_sample_of_a_beam_search_keeps_its_own_mask(tiny: Tiny) -> None:
    def beams(images: tuple[int, ...], seed: int, keep: Tensor, stays: Tensor) -> tuple[Tensor, Tensor]:
        inputs = tiny.make_inputs(images, seed=seed)
        with MaskedReference(tiny.model, from_layer(tiny.model, keep, 1), {0: stays}), torch.no_grad():
            output = tiny.model.generate(
                **inputs,
                max_new_tokens=8,
                num_beams=3,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
            )
        return output.sequences[:, inputs["input_ids"].shape[1] :], output.sequences_scores

    inputs = tiny.make_inputs(IMAGES)
    keep = random_keep(vision_mask(inputs), 0.5, seed=0)
    stays = per_head_keep(vision_mask(inputs), seed=1)
    together, scores = beams(IMAGES, 0, keep, stays)
    for sample, real in enumerate(inputs["attention_mask"].bool()):
        alone, score = beams(
            IMAGES[sample : sample + 1], sample, keep[sample : sample + 1, real], stays[sample : sample + 1, :, real]
        )
        assert torch.equal(alone[0], together[sample])
        torch.testing.assert_close(score[0], scores[sample], rtol=0, atol=1e-5)


def test_every_query_sees_something_even_where_all_is_hidden(tiny: Tiny) -> None:
    inputs = tiny.make_inputs(IMAGES)
    masks: list[Tensor] = []

    def record(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        masks.append(kwargs["attention_mask"])

    nothing = torch.zeros_like(vision_mask(inputs))
    with MaskedReference(tiny.model, from_layer(tiny.model, nothing, 0)):
        handle = tiny.model.get_decoder().layers[0].self_attn.register_forward_pre_hook(record, with_kwargs=True)
        logits = tiny.model(**inputs).logits
        handle.remove()
    visible = masks[0] if masks[0].dtype == torch.bool else masks[0] == 0
    assert torch.equal(visible, torch.eye(visible.shape[-1], dtype=torch.bool).expand_as(visible))
    assert logits.isfinite().all()


def test_leaving_removes_the_hooks_even_after_an_error() -> None:
    tiny = tiny_llava()
    keep = torch.ones(1, 3, dtype=torch.bool)
    layers = tiny.model.get_decoder().layers
    with MaskedReference(tiny.model, {0: keep}):
        assert len(layers[0]._forward_pre_hooks) == 1
    assert not layers[0]._forward_pre_hooks
    with pytest.raises(RuntimeError, match="inside"), MaskedReference(tiny.model, {0: keep}):
        raise RuntimeError("inside")
    assert not layers[0]._forward_pre_hooks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hide": {LAYERS: torch.ones(1, 3, dtype=torch.bool)}}, "layer 4; the model has layers 0 to 3"),
        ({"hide": {0: torch.ones(1, 3)}}, r"hide\[0\] is torch.float32"),
        ({"hide_kv": {0: torch.ones(1, 3, dtype=torch.bool)}}, r"expected torch.bool \[batch, kv_head, token\]"),
    ],
)
def test_wrong_masks_are_refused(arguments: dict[str, dict[int, Tensor]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedReference(tiny_llava().model, **arguments)


def test_random_keep_draws_each_sample_apart_and_spares_text() -> None:
    vision = torch.tensor([[False] + [True] * 10] * 2 + [[False] * 11])
    keep = random_keep(vision, 0.5, seed=0)
    assert keep[~vision].all()
    assert (keep & vision).sum(1).tolist() == [5, 5, 0]
    assert not torch.equal(keep[0], keep[1])


@pytest.mark.parametrize("build", [tiny_llava, tiny_qwen2_5_vl])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_sample_by_itself_is_its_row_of_the_batch(build: Callable[..., Tiny], side: str) -> None:
    tiny = build()
    batch = tiny.make_inputs(IMAGES, seed=3, side=side)
    pixels = []
    for sample, count in enumerate(IMAGES):
        alone = tiny.make_inputs((count,), seed=3 + sample)
        assert torch.equal(alone["input_ids"][0], batch["input_ids"][sample, batch["attention_mask"][sample].bool()])
        pixels += [alone["pixel_values"]] if count else []
    assert torch.equal(torch.cat(pixels), batch["pixel_values"])


def test_images_of_given_sizes_have_their_token_counts() -> None:
    grids = [(1, 4, 4), (1, 8, 12), (2, 4, 8), (1, 6, 10)]
    inputs = tiny_qwen2_5_vl().make_inputs(IMAGES, grids=grids)
    assert vision_mask(inputs).sum(1).tolist() == [4, 24 + 16, 0, 15]
    assert inputs["image_grid_thw"].tolist() == [list(grid) for grid in grids]
    assert tiny_qwen2_5_vl().model(**inputs).logits.isfinite().all()


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("build", [tiny_llava, tiny_qwen2_5_vl])
def test_every_part_uses_the_requested_attention(build: Callable[..., Tiny], attn: str) -> None:
    config = build(attn).model.config
    assert {c._attn_implementation for c in (config, config.text_config, config.vision_config)} == {attn}
