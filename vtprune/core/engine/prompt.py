"""What came in: which tokens are vision, which are padding, and where the prompt ends."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.core.adapter import Modality, Parts
from vtprune.core.engine.flow import Flow
from vtprune.core.engine.images import layout_of, seed_of
from vtprune.core.engine.replacing import replaced
from vtprune.core.engine.vision import VisionLog
from vtprune.core.errors import ComponentError, UnsupportedModeError
from vtprune.core.layout import SampleLayout


class Prompt:
    """Notes of the calls to `generate` and to the base model that are under way.

    The language model alone cannot tell a prompt from the drafts that assisted generation appends to it, nor how often
    `generate` repeated a sample; the call to `generate` can.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.token_ids: Tensor | None = None
        self._embeddings: Tensor | None = None
        self._mask: Any = None
        self._generating: tuple[int, int] | None = None
        self.annotate: Callable[[int, SampleLayout], Tensor] | None = None

    @contextmanager
    def watching_generate(self, starts: Callable[[], None]) -> Iterator[None]:
        """Wrap ``model.generate`` so that the prompt's size is known; undone on exit. ``starts`` runs at every call.

        A model without a head (``AutoModel``) cannot generate, and nothing is wrapped.
        """
        model: Any = self.parts.model
        if not hasattr(model, "generate"):
            yield
            return
        original: Callable[..., Any] = model.generate

        @wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            outer, self._generating = self._generating, self._size_of(model, args, kwargs)
            starts()
            try:
                return original(*args, **kwargs)
            finally:
                self._generating = outer

        with replaced(model, "generate", generate):
            yield

    def clear(self) -> None:
        """Let go of the latest call's tensors."""
        self.token_ids = self._embeddings = self._mask = None

    def _size_of(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int] | None:
        config = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None) or model.generation_config
        for option in ("prefill_chunk_size", "cache_implementation"):
            value = kwargs.get(option, getattr(config, option, None))
            if option == "prefill_chunk_size" and value is not None:
                raise UnsupportedModeError(
                    f"prefill_chunk_size={value}: a prompt that arrives in chunks cannot be pruned exactly, since a "
                    f"stage would choose before the rest of the prompt is known; leave prefill_chunk_size unset"
                )
            if option == "cache_implementation" and value not in (None, "dynamic"):
                raise UnsupportedModeError(
                    f"cache_implementation={value!r}: only the dynamic cache can be shortened; leave it unset"
                )
        guidance = kwargs.get("guidance_scale", getattr(config, "guidance_scale", None))
        if guidance not in (None, 1, 1.0):
            raise UnsupportedModeError(
                f"guidance_scale={guidance}: classifier-free guidance runs a second prompt without the image beside "
                f"the first, which a recipe cannot tell from a prompt whose image was left out; leave it unset"
            )
        given = [kwargs.get("input_ids"), kwargs.get("inputs"), args[0] if args else None, kwargs.get("inputs_embeds")]
        for tensor in given:
            if isinstance(tensor, Tensor):
                return tensor.shape[0], tensor.shape[1]
        return None

    @property
    def generating(self) -> bool:
        """Whether a call to `generate` is under way."""
        return self._generating is not None

    def copies(self, batch: int) -> int:
        """How often each sample stands in the batch (beams, num_return_sequences)."""
        if self._generating is None or batch % self._generating[0]:
            return 1
        return batch // self._generating[0]

    def end(self, total: int) -> int:
        """Logical length of the prompt when ``total`` tokens have come in."""
        return total if self._generating is None else min(total, self._generating[1])

    def base_starts(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the multimodal base model: takes note, and leaves the work to those who need it."""
        self.token_ids = kwargs.get("input_ids", args[0] if args else None)
        self._embeddings, self._mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")

    def modalities(self) -> dict[Modality, Tensor]:
        """For each modality bool ``[batch, token]``: where its placeholders stand."""
        found: dict[Modality, Tensor] = {}
        for kind, token in self.parts.placeholder_ids.items():
            if self.token_ids is not None:
                found[kind] = self.token_ids == token
            elif self._embeddings is not None:
                table: Any = self.parts.model.get_input_embeddings()  # type: ignore[operator]
                row = table(torch.tensor(token, device=self._embeddings.device))
                found[kind] = (self._embeddings == row.to(self._embeddings)).all(-1)
        return found

    def real(self, nothing: Tensor) -> Tensor:
        """bool like ``nothing``, ``[batch, token]``: which of the last tokens are not padding."""
        mask, length = self._mask, nothing.shape[1]
        if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] >= length:
            return mask[:, -length:].bool().to(nothing.device)
        return ~nothing

    def seeds(self, flow: Flow) -> Tensor:
        """int64 ``[batch]`` on the CPU: a number from each sample's prompt tokens and pixels."""
        if flow.seeds is not None:
            return flow.seeds
        numbers = []
        for sample in range(flow.batch):
            content = hashlib.sha256()
            if self.token_ids is not None:
                ids = self.token_ids[sample].to(flow.device)[flow.prompt[sample]].to(torch.int64).cpu()
                content.update(ids.numpy().tobytes())
            for record in flow.records[sample]:
                content.update(record.digest())
            numbers.append(seed_of(content.digest()))
        flow.seeds = torch.tensor(numbers, dtype=torch.int64)
        return flow.seeds

    def annotation(self, flow: Flow, sample: int) -> Tensor:
        """float32 ``[vision]`` on the CPU: what the caller said of a sample's vision tokens; ComponentError if that is
        nothing, or does not fit."""
        if self.annotate is None:
            raise ComponentError(
                "a component reads annotations, but none were given for this prompt; call run.annotate(...) before the "
                "model runs (a study does so for tasks whose samples have regions)"
            )
        number, layout = sample // self.copies(flow.batch), flow.layouts[sample]
        row = self.annotate(number, layout)
        if tuple(row.shape) != (layout.vision,):
            raise ComponentError(
                f"the annotation of sample {number} has shape {list(row.shape)}; the sample has {layout.vision} vision "
                f"tokens"
            )
        return row.float().cpu()


_NO_VISION = torch.empty(0, dtype=torch.bool)  # stands in for masks that nobody reads when no vision token comes in


def new_flow(prompt: Prompt, vision: VisionLog, embeddings: Tensor, past: int) -> Flow:
    """Open the state of one forward and hand out the images it brings."""
    batch, length = embeddings.shape[:2]
    device = embeddings.device
    shape = (batch, length)
    if length == 1:
        return Flow(batch, length, past, device, _NO_VISION, _NO_VISION, _NO_VISION)
    nothing = torch.zeros(shape, dtype=torch.bool, device=device)
    order = torch.arange(past, past + length, device=device)
    in_prompt = order < prompt.end(past + length)
    # Drafts copied from the prompt may hold placeholders; they stand for no image.
    modalities = prompt.modalities()
    kinds = {kind: mask.to(device) & in_prompt for kind, mask in modalities.items() if tuple(mask.shape) == shape}
    is_vision = nothing
    for mask in kinds.values():
        is_vision = is_vision | mask
    real = prompt.real(nothing)
    flow = Flow(batch, length, past, device, is_vision, real, real & in_prompt)
    if not kinds or not bool(is_vision.any()):
        return flow
    if prompt.generating and (padded := (~real[:, -1]).nonzero().flatten().tolist()):
        raise UnsupportedModeError(
            f"samples {padded} of the batch are padded on the right, where `generate` reads the next token: what it "
            f"would read there stands for no prompt; pad on the left (processor.tokenizer.padding_side = 'left')"
        )
    if prompt.parts.adapter.recognised:
        _require_filled(prompt, embeddings, kinds)
    host = is_vision.cpu()
    positions = [row.nonzero().squeeze(-1) for row in host]
    names = _names({kind: mask.cpu() for kind, mask in kinds.items()}, positions)
    records = vision.assign(names)
    layouts = tuple(layout_of(*each) for each in zip(positions, records, strict=True))
    flow.start(layouts, records, prompt.parts.depth)
    return flow


def _require_filled(prompt: Prompt, embeddings: Tensor, kinds: dict[Modality, Tensor]) -> None:
    """A model recognised by its structure must have put vision features where its placeholders stand."""
    table: Any = prompt.parts.model.get_input_embeddings()  # type: ignore[operator]
    for kind, mask in kinds.items():
        rows = embeddings[mask]
        token = torch.tensor(prompt.parts.placeholder_ids[kind], device=embeddings.device)
        if len(rows) and bool((rows == table(token).to(rows)).all(-1).any()):
            raise UnsupportedModeError(
                f"an {kind} placeholder of {type(prompt.parts.model).__name__} (id {int(token)}) still carries the "
                f"placeholder's own embedding where the language model begins: its vision features enter in some other "
                f"way, such as cross-attention, so dropping the token would not drop them; write an adapter, or leave "
                f"this model unpruned"
            )


def _names(kinds: dict[Modality, Tensor], positions: list[Tensor]) -> list[list[str]]:
    """For each sample the modality of every vision token."""
    rows = []
    for sample, at in enumerate(positions):
        row = [""] * len(at)
        for kind, mask in kinds.items():
            for index in mask[sample][at].nonzero().squeeze(-1).tolist():
                row[index] = kind
        rows.append(row)
    return rows
