"""The engine: hooks that remove tokens physically from an unmodified transformers model.

    base model pre-hook      which tokens are vision, padding, prompt
    language model pre-hook  cache layers adopted, a `Flow` opened
    decoder layer pre-hook   stages that drop here; hidden states, rotary embeddings and mask rewritten for the rest
    attention probe          the queries, keys and attention rows that stages asked for; stages that evict from this
                             layer's cache
    language model hook      output scattered back to its usual shape, costs and cache sizes noted, the flow closed

Only this module and the ones it calls edit a model's tensors.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from contextlib import ExitStack
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary
from transformers.cache_utils import DynamicCache

from vtprune.core.engine.apply import Site, drop_hidden, plan_eviction
from vtprune.core.engine.attention import (
    Tap,
    attention_rows,
    check_implementation,
    implementation,
    is_causal,
    probing,
    tapped,
)
from vtprune.core.engine.cache import PrunedLayer, adopt, release, window_within
from vtprune.core.engine.compiled import forget_compiled
from vtprune.core.engine.cost import CostModel
from vtprune.core.engine.decide import Context
from vtprune.core.engine.deepstack import in_step
from vtprune.core.engine.devices import without_weights
from vtprune.core.engine.drafts import attend
from vtprune.core.engine.flow import Flow
from vtprune.core.engine.layer_inputs import LayerArguments, LayerInputs
from vtprune.core.engine.layers import depth_fault, store_of
from vtprune.core.engine.plan import BoundStage, Plan
from vtprune.core.engine.prompt import Prompt, new_flow
from vtprune.core.engine.recorder import Recorder
from vtprune.core.engine.steps import Step, after
from vtprune.core.engine.tower_exit import drop_what_is_gone, what_stages_did
from vtprune.core.engine.tower_stage import TowerStages
from vtprune.core.engine.vision import VisionLog
from vtprune.core.errors import NoVisionTokensError, UnsupportedModeError
from vtprune.core.signals import Need

Replay = tuple[Callable[[Tensor], Tensor], LayerArguments]


class Engine:
    """One recipe at work on one model. `attach` puts the hooks on, `detach` takes them off; both may be repeated."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.parts = plan, plan.parts
        parts = plan.parts
        dtype = next(parts.language_model.parameters()).dtype
        self.cost = CostModel.of(parts.layers, parts.attention, parts.head, dtype)
        self.vision = VisionLog(parts, plan.vision_needs, plan.vision_features)
        self.tower = tuple(bound for bound in plan.stages if bound.is_tower)
        self.vision.stages = TowerStages(parts, self.tower, plan.kv_heads) if self.tower else None
        self.prompt = Prompt(parts)
        self.vision.generating = lambda: self.prompt.generating
        self.recorder = Recorder(plan, self.cost)
        self._flow: Flow | None = None
        self.inputs = LayerInputs(parts, plan.kinds)
        self._hidden: Tensor | None = None
        self._store: PrunedLayer | None = None
        self._caches: WeakSet[DynamicCache] = WeakSet()
        self._replay: MutableMapping[Tensor, dict[int, Replay]] = WeakIdKeyDictionary()
        self._kernel = ""
        self._probe: Callable[[bool], None] | None = None
        self._hooks: ExitStack | None = None

    # -- on and off ----------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Register every hook; on failure none stays."""
        if (name := without_weights(self.parts.model)) is not None:
            raise UnsupportedModeError(
                f"parameter {name!r} of {type(self.parts.model).__name__} is on the meta device, and no hook of "
                f"accelerate loads it when its module runs: the model was built without weights, or its hooks were "
                f"taken off; load it with from_pretrained"
            )
        if problem := check_implementation(self.parts.language_model.config, "language model"):
            raise UnsupportedModeError(problem)
        self._kernel = kernel = implementation(self.parts.language_model.config)
        self.inputs.flash, self.inputs.eager = "flash" in kernel, kernel == "eager"
        with ExitStack() as stack:
            self._register(stack)
            self._hooks = stack.pop_all()
        forget_compiled()

    def detach(self) -> None:
        """Remove exactly what `attach` registered, and release the caches it adopted."""
        hooks, self._hooks, self._probe = self._hooks, None, None
        self._flow = None
        self.inputs.clear()
        self._replay.clear()
        self.vision.clear()
        self.prompt.clear()
        for cache in list(self._caches):
            release(cache)
        if hooks is not None:
            hooks.close()
            forget_compiled()

    def _register(self, stack: ExitStack) -> None:
        parts = self.parts

        def keep(handle: Any) -> None:
            stack.callback(handle.remove)

        stack.enter_context(self.prompt.watching_generate(self.vision.generate_starts))
        stack.enter_context(self.vision.watching())
        stack.enter_context(in_step(parts.language_model, lambda: self._flow))
        keep(parts.base.register_forward_pre_hook(self.prompt.base_starts, with_kwargs=True))
        keep(parts.base.register_forward_pre_hook(self.vision.base_starts, with_kwargs=True))
        keep(parts.base.register_forward_hook(lambda *_: self.prompt.clear(), always_call=True))
        keep(parts.language_model.register_forward_pre_hook(self._model_starts, with_kwargs=True))
        keep(parts.language_model.register_forward_hook(self._model_ends, with_kwargs=True, always_call=True))
        if any(bound.stage.positions == "reindex" for bound in self.plan.stages):
            keep(parts.language_model.rotary_emb.register_forward_pre_hook(self.inputs.rotary_starts, with_kwargs=True))
        if parts.head is not None:
            keep(parts.head.register_forward_pre_hook(self._head_starts))
        for layer, module in enumerate(parts.layers):
            keep(module.register_forward_pre_hook(self._layer_hook(layer), with_kwargs=True))
        watched = {*self.plan.captures, *(layer for bound in self.plan.stages if bound.is_kv for layer in bound.layers)}
        for layer in sorted(watched):
            tap = self._tap(layer, self.plan.captures.get(layer, {}))
            attention = parts.attention[layer]
            assert attention is not None
            stack.enter_context(tapped(attention, tap))
        if watched:
            shares = any(kind.shares for kind in self.plan.kinds)
            self._probe = stack.enter_context(probing(parts.language_model.config, asked_by_name=shares))
            self._probe(False)
        if self.plan.vision_needs:
            self._register_vision_taps(stack)

    def _register_vision_taps(self, stack: ExitStack) -> None:
        depth = len(self.parts.vision_attention)
        row = self.parts.adapter.cls_row(self.parts.model)
        for layer in range(depth):
            wanted = [need for need in self.plan.vision_needs if need.layer is not None and need.layer % depth == layer]
            if wanted:
                tap = self.vision.tap(wanted, row)
                for tower in filter(None, (self.parts.vision_attention, self.parts.video_attention)):
                    stack.enter_context(tapped(tower[layer], tap))
        stack.enter_context(probing(self.parts.vision_tower.config))

    # -- the language model ------------------------------------------------------------------------------------------

    def _model_starts(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        embeddings = kwargs.get("inputs_embeds")
        if embeddings is None:
            return None
        kwargs = dict(kwargs)
        cache = kwargs.get("past_key_values")
        caching = kwargs.get("use_cache")
        caching = module.config.use_cache if caching is None else caching
        checkpointing = module.training and getattr(module, "gradient_checkpointing", False)
        if cache is None and caching and not checkpointing:
            cache = kwargs["past_key_values"] = DynamicCache(config=module.config)
        if cache is not None:
            adopt(cache, self.parts.depth)
            self._caches.add(cache)
        past = 0 if cache is None else cache.get_seq_length()
        flow = new_flow(self.prompt, self.vision, embeddings, past)
        self._flow = flow
        self.inputs.clear()
        flow.undisturbed = not flow.prunable and cache is not None and _undisturbed(cache)
        if not flow.prunable and past == 0:
            raise NoVisionTokensError(
                f"the prompt holds no vision token (placeholder ids {sorted(self.parts.placeholder_ids.values())}), so "
                f"there is nothing to prune; was the image left out of the processor's call, or its placeholder out of "
                f"the text? Run text-only prompts outside vtprune.prune"
            )
        if flow.prunable and (now := implementation(module.config)) != self._kernel:
            raise UnsupportedModeError(
                f"the attention implementation was changed from {self._kernel!r} to {now!r} inside the with-block; "
                f"leave it, change the implementation, and bind the recipe anew"
            )
        if flow.prunable and (problem := depth_fault(self.parts)):
            raise UnsupportedModeError(problem)
        if flow.prunable and (cache is None or checkpointing) and any(bound.is_kv for bound in self.plan.stages):
            raise UnsupportedModeError(
                "a .kv stage prunes the KV cache, but the model runs without one (use_cache=False, or gradient "
                "checkpointing); enable the cache or use a stage at llm.layers[i]"
            )
        flow.drafts = past + flow.length - self.prompt.end(past + flow.length)
        if flow.prunable and flow.drafts and self.inputs.flash and any(bound.is_kv for bound in self.plan.stages):
            raise UnsupportedModeError(
                f"assisted generation appended {flow.drafts} draft tokens to the prompt; they must not see what a .kv "
                f"stage evicts, which flash attention's padding mask cannot express; load the model with "
                f"attn_implementation='sdpa', or generate without drafts"
            )
        shared = {kind.producer for kind in self.plan.kinds if kind.shares and kind.producer is not None}
        evicted = {layer for bound in self.plan.stages if bound.is_kv for layer in bound.layers}
        if flow.prunable and flow.drafts and shared & evicted:
            raise UnsupportedModeError(
                f"assisted generation appended {flow.drafts} draft tokens to the prompt; they must not see what a .kv "
                f"stage evicts from layer {min(shared & evicted)}, but later layers share that layer's keys before "
                f"they are evicted; generate without drafts"
            )
        if flow.prunable:
            flow.windowed = None if cache is None else window_within(cache, past + flow.length)
            if self._probe is not None:
                self._probe(True)
            flops, full = self.vision.flops, self.vision.flops_full
            self.recorder.start(flow, self.prompt.copies(flow.batch), flops, full, self.vision.stage_seconds)
            for acted in what_stages_did(flow, self.tower):
                self.recorder.stage(*acted)
        return args, kwargs

    def _model_ends(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        flow, self._flow = self._flow, None
        self._hidden = self._store = None
        if self._probe is not None:
            self._probe(False)
        if flow is None or output is None:
            return None
        self.recorder.end(flow, kwargs.get("past_key_values"))
        if flow.index is None:
            return None
        hidden = output[0]
        assert flow.valid is not None
        length = flow.length - flow.first
        target = (flow.index - flow.first).masked_fill(~flow.valid, length)
        target = target.to(hidden.device)[..., None].expand_as(hidden)
        full = hidden.new_zeros(flow.batch, length + 1, hidden.shape[-1])
        restored = full.scatter(1, target, hidden)[:, :length]
        if isinstance(output, tuple):
            return (restored, *output[1:])
        output.last_hidden_state = restored
        return output

    def _head_starts(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.recorder.head(args[0].shape[:-1].numel())

    # -- one decoder layer -------------------------------------------------------------------------------------------

    def _layer_hook(self, layer: int) -> Callable[..., Any]:
        def starts(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            flow = self._flow
            if flow is None:
                return self._again(layer, args, kwargs)
            if flow.undisturbed and kwargs.get("attention_mask") is None:
                return None
            hidden = args[0] if args else kwargs["hidden_states"]
            self.inputs.entering(layer, flow, hidden, kwargs)
            store = store_of(kwargs.get("past_key_values"), self.plan.kinds[layer])
            steps: list[Step] = []
            if flow.prunable:
                if self.tower and layer == 0:
                    shift = None if store is None else store.shift
                    steps.extend(drop_what_is_gone(flow, self.inputs.rotary, shift, self.tower))
                    hidden = after(hidden, steps)
                for bound in self.plan.at(layer, is_kv=False):
                    site = self._site(bound, layer, flow, hidden)
                    with self.recorder.timed(bound.index):
                        hidden, more = drop_hidden(
                            site, hidden, self.inputs.rotary, None if store is None else store.shift
                        )
                    steps.extend(more)
            if flow.prunable:
                self.recorder.layer(flow, layer, 0 if store is None else store.stored)
                self._hidden, self._store = hidden, store
            changed = self.inputs.rewritten(layer, flow, hidden, store, kwargs)
            if not changed and not steps:
                return None
            if module.training and getattr(module, "gradient_checkpointing", False):
                of_this_forward = self._replay.setdefault(kwargs["position_embeddings"][0], {})
                of_this_forward[layer] = (lambda start: after(start, steps), changed)
            return changed.applied(hidden, args, kwargs)

        return starts

    def _again(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Gradient checkpointing of transformers up to 5.17 runs a layer's hooks again during the backward pass, with
        the arguments of the forward it belongs to; their rotary embedding tells which one that was."""
        replay = self._replay.get(kwargs["position_embeddings"][0], {})
        if layer not in replay:
            return None
        transform, changed = replay[layer]
        hidden = transform(args[0] if args else kwargs["hidden_states"])
        return changed.applied(hidden, args, kwargs)

    # -- attention -----------------------------------------------------------------------------------------------------

    def _tap(self, layer: int, needs: dict[Need, int]) -> Tap:
        def see(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
        ) -> Callable[[Any], Any] | None:
            flow = self._flow
            if flow is None or not flow.prunable:
                return None
            flow.frames[layer] = flow.frame
            new = query.shape[2]
            for need, stage in needs.items():
                if need.kind != "attention":
                    tensor = {"keys": key, "values": value, "queries": query}[need.kind]
                    flow.captured[need] = tensor[:, :, -new:].detach()
                    continue
                with torch.no_grad(), self.recorder.timed(stage):
                    rows, weights = (tensor.to(query.device) for tensor in flow.rows(need.query or "last"))
                    seen = attention_rows(
                        query,
                        key,
                        mask,
                        rows,
                        weights,
                        scaling=kwargs.get("scaling"),
                        causal=is_causal(module, kwargs),
                        softcap=kwargs.get("softcap"),
                        sliding_window=kwargs.get("sliding_window") if self.inputs.flash else None,
                    )
                    flow.captured[need] = seen[..., -new:]
            for bound in self.plan.at(layer, is_kv=True):
                assert self._hidden is not None
                assert self._store is not None
                with self.recorder.timed(bound.index):
                    eviction = plan_eviction(self._site(bound, layer, flow, self._hidden), self.inputs.flash)
                    if eviction is None:
                        return None
                    # The kernel has been handed the full keys and values already: only later tokens miss what goes.
                    self._store.evict(eviction.over(self._store.stored))
                    keep, drafts = eviction.over(key.shape[2]), flow.drafts
                if drafts:
                    return lambda kernel: attend(kernel, query, key, value, mask, keep, drafts)
            return None

        return see

    def _site(self, bound: BoundStage, layer: int, flow: Flow, hidden: Tensor) -> Site:
        context = Context(
            hidden.detach(),
            lambda: self.prompt.seeds(flow),
            lambda sample: self.prompt.annotation(flow, sample),
            self.cost,
            self.plan.kinds[layer].kv_heads or self.plan.kv_heads,
        )
        return Site(bound, layer, flow, context, self.parts, self.recorder)


def _undisturbed(cache: Any) -> bool:
    """Whether a layer given no mask needs none: nothing was pruned, or what is left has neither gaps nor fillers."""
    return all(
        layer.untouched or (layer.all_valid and layer.shift is None and not layer.is_sliding)
        for layer in cache.layers
        if isinstance(layer, PrunedLayer)
    )
