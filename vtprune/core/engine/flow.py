"""The state of one language-model forward: which tokens came in, which of them are still there.

Everything that must outlive the forward is in the cache layers; a `Flow` is dropped when the forward ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from vtprune.core.engine.images import ImageRecord
from vtprune.core.engine.masks import Queries
from vtprune.core.layout import SampleLayout
from vtprune.core.signals import Need


@dataclass(frozen=True)
class Frame:
    """The compact rows at some layer: who was there, and how wide the rows were."""

    survivors: list[Tensor] | None
    width: int

    def columns(self, sample: int, positions: Tensor) -> Tensor:
        """Columns of tokens given by their index among the new tokens; they must have been there."""
        if self.survivors is None:
            return positions
        kept = self.survivors[sample]
        return torch.searchsorted(kept, positions) + (self.width - len(kept))


def rows_at(tensor: Tensor, index: Tensor) -> Tensor:
    """The rows ``index``, int64 ``[batch, token]``, of a tensor ``[batch|1, row, ...]``."""
    tensor = tensor.expand(len(index), *tensor.shape[1:])
    index = index.to(tensor.device).view(*index.shape, *(1,) * (tensor.dim() - 2))
    return tensor.gather(1, index.expand(-1, -1, *tensor.shape[2:]))


@dataclass
class Flow:
    """One forward.

    length: new tokens per sample as they came in (padding included); past: logical tokens cached before.
    device: where its embeddings lie, and with them every tensor below that does not say otherwise.
    vision, real: bool ``[batch, token]``; vision placeholders, and tokens that are not padding.
    prompt: bool ``[batch, token]``; real tokens that belong to the prompt (drafts of assisted generation do not).
    layouts: the vision tokens of each sample; positions count within this forward's tokens. Empty if it brings none.
    survivors: int64 CPU tensors, per sample the indices (among the new tokens) that are still there, ascending; None
        as long as nothing was dropped.
    index, valid: the compact problem, ``[batch, token]``; left-filled, so that every row ends together.
    sizes: float32 ``[batch, token]``, how many tokens each one stands for, once something was merged.
    entering, cached: per sample and decoder layer, the vision tokens that enter it and those that its cache is left
        with: the mean over its KV heads, exactly.
    windowed: a layer and the size of its sliding window, if that forgets part of this prompt.
    """

    batch: int
    length: int
    past: int
    device: torch.device
    vision: Tensor
    real: Tensor
    prompt: Tensor
    layouts: tuple[SampleLayout, ...] = ()
    records: list[list[ImageRecord]] = field(default_factory=list)
    survivors: list[Tensor] | None = None
    index: Tensor | None = None
    valid: Tensor | None = None
    all_valid: bool = True
    sizes: Tensor | None = None
    rotary: Tensor | None = None  # re-indexed rotary positions of the compact rows
    shift: Tensor | None = None
    alive: list[Tensor] = field(default_factory=list)
    entering: list[list[int]] = field(default_factory=list)
    cached: list[list[Fraction]] = field(default_factory=list)
    captured: dict[Need, Tensor] = field(default_factory=dict)
    frames: dict[int, Frame] = field(default_factory=dict)
    undisturbed: bool = False  # nothing to rewrite in a layer that is given no mask
    ends_in_vision: list[bool] = field(default_factory=list)  # samples whose prompt ends with a vision token
    seeds: Tensor | None = None  # content numbers of the samples, once somebody asked
    drafts: int = 0  # tokens after the prompt that assisted generation proposes
    first: int = 0  # the new tokens before it were cut away by the model itself
    noun: str = "sample"  # what decides for itself: a sample, or an image inside the vision tower
    targets: dict[tuple[int, int], Fraction | None] = field(default_factory=dict)
    windowed: tuple[int, int] | None = None
    _rows: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _queries: dict[torch.device, Queries] = field(default_factory=dict)
    _moved: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = field(default_factory=dict)
    _embeddings: dict[int, tuple[object, tuple[Tensor, ...]]] = field(default_factory=dict)

    @property
    def prunable(self) -> bool:
        """Whether this forward brings vision tokens."""
        return bool(self.layouts)

    @property
    def width(self) -> int:
        """Tokens per row of the compact problem."""
        return self.length - self.first if self.index is None else self.index.shape[1]

    def start(self, layouts: tuple[SampleLayout, ...], records: list[list[ImageRecord]], depth: int) -> None:
        """Take note of the vision tokens of a prompt and of the images behind them."""
        self.layouts, self.records = layouts, records
        self.alive = [torch.arange(layout.vision) for layout in layouts]
        self.entering = [[layout.vision] * depth for layout in layouts]
        self.cached = [[Fraction(layout.vision)] * depth for layout in layouts]
        order = torch.arange(self.length, device=self.device)
        last = torch.where(self.prompt, order, -1).amax(1).tolist()
        self.ends_in_vision = [
            layout.vision > 0 and int(layout.positions[-1]) == end for layout, end in zip(layouts, last, strict=True)
        ]

    def holds(self, sample: int, layer: int, tokens: int) -> None:
        """Note that so many vision tokens of a sample enter a decoder layer and those after it."""
        self.entering[sample][layer:] = [tokens] * (len(self.entering[sample]) - layer)
        self.cached[sample][layer:] = [Fraction(tokens)] * (len(self.cached[sample]) - layer)

    def queries(self, device: torch.device | None = None) -> Queries:
        """The compact problem's rows, for mask rewriting; on ``device``, or the flow's own."""
        device = device or self.device
        if device not in self._queries:
            if self.index is None:
                index = torch.arange(self.first, self.length, device=device).expand(self.batch, -1)
            else:
                index = self.index.to(device)
            valid = torch.ones_like(index, dtype=torch.bool) if self.valid is None else self.valid.to(device)
            moved = self.index is not None
            self._queries[device] = Queries(index - self.first, index + self.past, valid, self.all_valid, moved)
        return self._queries[device]

    def brought(self, tensor: Tensor, device: torch.device) -> Tensor:
        """A tensor that layers share, such as their mask, on the device of one of them; copied there only once."""
        if tensor.device == device:
            return tensor
        key = id(tensor), device
        if key not in self._moved:
            self._moved[key] = tensor, tensor.to(device)
        return self._moved[key][1]

    def embeddings(self, pair: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Rotary embeddings ``[batch|1, token, dim]`` of the survivors; layers of a type share a ``pair``."""
        if id(pair) not in self._embeddings:
            self._embeddings[id(pair)] = (pair, tuple(self.gather(tensor) for tensor in pair))
        return self._embeddings[id(pair)][1]

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows of ``[batch, token, ...]`` (or ``[1, token, ...]``) that are still there.

        ``token`` counts all new tokens, or those that the model itself has left.
        """
        if self.index is None:
            return tensor[:, self.first :] if self.first and tensor.shape[1] == self.length else tensor
        return rows_at(tensor, self.index if tensor.shape[1] == self.length else self.index - self.first)

    @property
    def frame(self) -> Frame:
        """The compact rows as they are now."""
        return Frame(self.survivors, self.width)

    def columns(self, samples: Sequence[int], frame: Frame | None = None) -> Tensor:
        """int64 ``[sample, vision]``: where the surviving vision tokens of some samples stand in the compact rows (or
        in those of an earlier ``frame``). The samples must have equally many survivors."""
        frame = frame or self.frame
        rows = [frame.columns(sample, self.layouts[sample].positions[self.alive[sample]]) for sample in samples]
        return torch.stack(rows).to(self.device)

    def text_mask(self, query: str) -> Tensor:
        """bool ``[batch, token]`` over the compact rows: the query tokens of a signal.

        ``last``: the last prompt token; ``text``: every prompt token that is not vision; ``text_after_vision``: those
        after the last vision token, or the last prompt token if there is none; ``received``: every prompt token.
        """
        order = torch.arange(self.length, device=self.device)
        last = torch.where(self.prompt, order, -1).amax(1, keepdim=True)
        if query == "last":
            chosen = order == last
        elif query == "received":
            chosen = self.prompt
        else:
            chosen = self.prompt & ~self.vision
            if query == "text_after_vision":
                after = torch.where(self.vision, order, -1).amax(1, keepdim=True)
                chosen = chosen & (order > after)
                chosen = chosen | ((order == last) & ~chosen.any(1, keepdim=True))
        picked = self.gather(chosen)
        return picked if self.valid is None else picked & self.valid

    def rows(self, query: str) -> tuple[Tensor, Tensor]:
        """Compact row indices and weights ``[batch, row]`` of a query; weights of a sample sum to 1."""
        if query not in self._rows:
            self._rows[query] = self._find_rows(query)
        return self._rows[query]

    def _find_rows(self, query: str) -> tuple[Tensor, Tensor]:
        mask = self.text_mask(query)
        if query == "last":
            row = mask.to(torch.int8).argmax(1, keepdim=True)
            return row, torch.ones(row.shape, device=self.device)
        counts = mask.sum(1, keepdim=True)
        order = torch.sort(mask.to(torch.int8), dim=1, descending=True, stable=True).indices
        order = order[:, : int(counts.max())]
        return order, mask.gather(1, order).float() / counts.clamp(min=1)

    def drop(self, kept: list[Tensor]) -> Tensor:
        """Remove vision tokens from the compact problem.

        kept: per sample int64 CPU, the vision tokens that stay, counted in the prompt. Padding goes as well.
        Returns int64 ``[batch, token]``: for every row of the new compact problem its row in the old one.
        """
        before = self.survivors
        if before is None:
            real = self.real.cpu()
            before = [row.nonzero().squeeze(-1) for row in real]
        after = []
        for sample, layout in enumerate(self.layouts):
            gone = torch.ones(layout.vision, dtype=torch.bool)
            gone[kept[sample]] = False
            after.append(before[sample][~torch.isin(before[sample], layout.positions[gone])])
        frame, width = self.frame, max(map(len, after))
        columns = torch.zeros(self.batch, width, dtype=torch.int64)
        index = torch.zeros(self.batch, width, dtype=torch.int64)
        valid = torch.zeros(self.batch, width, dtype=torch.bool)
        for sample, rows in enumerate(after):
            fill = width - len(rows)
            columns[sample, fill:] = frame.columns(sample, rows)
            index[sample, fill:] = rows
            columns[sample, :fill], index[sample, :fill] = columns[sample, -1], index[sample, -1]
            valid[sample, fill:] = True
        self.survivors, self.alive = after, kept
        self._rows.clear()
        self._queries.clear()
        self._embeddings.clear()
        self.index, self.valid = index.to(self.device), valid.to(self.device)
        self.all_valid = bool(valid.all())
        columns = columns.to(self.device)
        if self.sizes is not None:
            self.sizes = self.sizes.gather(1, columns)
        if self.rotary is not None:
            self.rotary = self.rotary.gather(1, columns)
        return columns

    def cut(self, rows: int, layer: int) -> None:
        """The model itself goes on with the last ``rows`` of its tokens only: it needs no others from ``layer`` on."""
        self.first = self.length - rows
        self._queries.clear()
        self._embeddings.clear()
        for sample, layout in enumerate(self.layouts):
            left = int((layout.positions[self.alive[sample]] >= self.first).sum())
            self.entering[sample][layer:] = [left] * (len(self.entering[sample]) - layer)
        if self.index is not None:
            assert self.valid is not None
            index = self.index[:, -rows:]
            self.valid = self.valid[:, -rows:] & (index >= self.first)
            self.index = index.clamp(min=self.first)
            self.all_valid = bool(self.valid.all())
            if self.rotary is not None:
                self.rotary = self.rotary[:, -rows:]

    def reindex(self, positions: Tensor, before: Tensor | None) -> None:
        """Renumber the survivors: consecutive rotary positions from the first real token's on.

        positions: int64 ``[axis, batch, token]`` or ``[batch, token]``, the rotary positions of this forward's new
        tokens as the model would use them (M-RoPE has three axes, which all get the same number).
        before: int64 ``[batch]``, how far earlier turns of the dialogue already run behind.
        """
        axes = positions if positions.dim() == 3 else positions[None]
        axes = axes.to(self.device).expand(-1, self.batch, -1)
        real = self.real[None]
        first = torch.where(real, axes, torch.iinfo(axes.dtype).max).amin((0, 2))
        following = torch.where(real, axes, -1).amax((0, 2)) + 1
        if before is not None:
            first = first - before.to(self.device)
        assert self.valid is not None
        self.rotary = (first[:, None] + self.valid.long().cumsum(1) - 1).clamp(min=0)
        self.shift = following - (first + self.valid.sum(1))
