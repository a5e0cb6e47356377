"""The columns of results: what a worker writes, the store keeps, and statistics and figures read.

A chunk is one batch of a cell. Its rows are equal on every run of the same cell; its times are not, and are kept apart.
"""

from __future__ import annotations

from typing import Final, TypedDict


class SampleRow(TypedDict):
    """One sample of one cell.

    index: place in the task's order. sample, type, group: of the task's `Sample`.
    prompt_tokens: text and vision. vision_tokens: in the prompt. input_tokens: vision tokens entering decoder layer 0.
    mean_tokens: vision tokens entering a layer, mean over layers. mean_kv_tokens: vision tokens in the cache after the
    prompt, mean over layers and KV heads. kv_bytes, kv_bytes_full: the cache after the prompt, with and without
    pruning. flops, flops_full: vision tower and the prompt's pass through the language model, likewise. new_tokens:
    generated, the end token not counted.
    tokens_by_layer: ``[layer]``, vision tokens entering each layer. kv_by_head: ``[layer][kv_head]``, vision tokens in
    the cache. Both None where nothing was pruned.
    kept: indices of the vision tokens that the last stage kept (the union over layers and heads), for the first
    ``keep_indices`` samples, else None.
    kept_share: for the same samples, where the last stage evicts from the cache, ``[vision]``: the share of its (layer,
    KV head) pairs that keep each vision token; else None.
    grids: for the same samples, ``[visual][3]``: (frames, rows, columns) of the vision tokens of each visual, in the
    order of the prompt; None for other samples, and where the family gives one of them no grid.
    crops: wherever there are grids, ``[visual][4]``: (left, top, right, bottom) of what the model sees of each visual,
    as shares of its width and height; below 0 and above 1 where the processor pads. See
    `vtprune.study.regions.crop_of` for when this is known.
    """

    cell: str
    index: int
    sample: str
    type: str
    group: str
    answer: str
    references: list[str]
    score: float
    prompt_tokens: int
    vision_tokens: int
    input_tokens: int
    mean_tokens: float
    mean_kv_tokens: float
    kv_bytes: int
    kv_bytes_full: int
    flops: int
    flops_full: int
    new_tokens: int
    tokens_by_layer: list[int] | None
    kv_by_head: list[list[int]] | None
    kept: list[int] | None
    kept_share: list[float] | None
    grids: list[list[int]] | None
    crops: list[list[float]] | None


class TimeRow(TypedDict):
    """Wall time of one chunk, in seconds: prepare (processor and transfer), generate (all of ``generate``), stages (one
    entry per stage of the recipe, part of generate). device, dtype: what ran it, and in which type of number."""

    cell: str
    chunk: int
    samples: int
    prepare: float
    generate: float
    stages: list[float]
    device: str
    dtype: str


SAMPLE_COLUMNS: Final = tuple(SampleRow.__annotations__)
TIME_COLUMNS: Final = tuple(TimeRow.__annotations__)
