"""The state of one forward against lists of token indices."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vtprune.core.engine.flow import Flow
from vtprune.core.layout import SampleLayout, Segment

TEXT, VISION, PAD, DRAFT = "tvpd"
CPU = torch.device("cpu")


def flow_of(rows: list[str], past: int = 0) -> Flow:
    """A forward from pictures of its rows, such as ``"pptvvvtt"``; all rows are equally long."""

    def marks(*kinds: str) -> Tensor:
        return torch.tensor([[mark in kinds for mark in row] for row in rows])

    flow = Flow(len(rows), len(rows[0]), past, CPU, marks(VISION), marks(TEXT, VISION, DRAFT), marks(TEXT, VISION))
    layouts = []
    for row in rows:
        positions = torch.tensor([i for i, mark in enumerate(row) if mark == VISION], dtype=torch.int64)
        segments = (Segment(0, 0, len(positions)),) if len(positions) else ()
        layouts.append(SampleLayout(positions, segments))
    flow.start(tuple(layouts), [[] for _ in rows], 3)
    return flow


@st.composite
def batches(draw: st.DrawFn) -> list[str]:
    """Left- or right-padded rows of text and vision; each ends with text, then drafts of all samples."""
    count, drafts = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    rows = [draw(st.text("tv", min_size=1, max_size=8)) + TEXT for _ in range(count)]
    width = max(map(len, rows))
    left = draw(st.booleans())
    return [(row.rjust(width, PAD) if left else row.ljust(width, PAD)) + DRAFT * drafts for row in rows]


def some_vision(draw: st.DrawFn, flow: Flow) -> list[Tensor]:
    """For each sample some of the vision tokens that are still there, counted in the prompt."""
    kept = []
    for alive in flow.alive:
        stay = draw(st.sets(st.sampled_from(alive.tolist()))) if len(alive) else set()
        kept.append(torch.tensor(sorted(stay), dtype=torch.int64))
    return kept


@settings(deadline=None)
@given(batches(), st.data(), st.integers(0, 3))
def test_dropping_twice_equals_lists(rows: list[str], data: st.DataObject, past: int) -> None:
    flow = flow_of(rows, past)
    assert flow.width == len(rows[0])
    tokens = [[i for i in range(len(row)) if row[i] != PAD] for row in rows]
    vision = [[i for i in range(len(row)) if row[i] == VISION] for row in rows]
    values = torch.randn(len(rows), flow.length, 2)
    compact = values
    for _ in range(2):
        kept = some_vision(data.draw, flow)
        columns = flow.drop(kept)
        tokens = [
            [i for i in row if i not in vision[s] or vision[s].index(i) in kept[s].tolist()]
            for s, row in enumerate(tokens)
        ]
        compact = compact.gather(1, columns[..., None].expand(-1, -1, 2))
        width = max(map(len, tokens))
        assert flow.width == compact.shape[1] == width
        for sample, row in enumerate(tokens):
            assert flow.survivors[sample].tolist() == row
            assert flow.valid[sample].tolist() == [False] * (width - len(row)) + [True] * len(row)
            assert flow.index[sample, width - len(row) :].tolist() == row
            assert torch.equal(compact[sample, width - len(row) :], values[sample, row])
        assert torch.equal(flow.gather(values), compact)
        assert torch.equal(flow.gather(values[:1]), flow.gather(values[:1].expand_as(values)))
        assert flow.all_valid == bool(flow.valid.all())
        queries = flow.queries()
        assert torch.equal(queries.positions, flow.index + past)
        assert queries.moved


@settings(deadline=None)
@given(batches(), st.data())
def test_columns_find_the_surviving_vision_tokens(rows: list[str], data: st.DataObject) -> None:
    flow = flow_of(rows)
    values = torch.arange(flow.length).expand(len(rows), -1)
    early = flow.frame
    for step in range(3):
        for sample, layout in enumerate(flow.layouts):
            expected = layout.positions[flow.alive[sample]].tolist()
            assert flow.gather(values)[sample, flow.columns([sample])[0]].tolist() == expected
            assert flow.columns([sample], early)[0].tolist() == expected, "the first frame holds every token in place"
        if step < 2:
            flow.drop(some_vision(data.draw, flow))


def expected_rows(row: str, query: str) -> list[int]:
    prompt = [i for i, mark in enumerate(row) if mark in (TEXT, VISION)]
    text = [i for i in prompt if row[i] == TEXT]
    if query == "last":
        return prompt[-1:]
    if query == "received":
        return prompt
    if query == "text":
        return text
    last_vision = max((i for i, mark in enumerate(row) if mark == VISION), default=-1)
    return [i for i in text if i > last_vision] or prompt[-1:]


@settings(deadline=None)
@given(batches(), st.sampled_from(["last", "received", "text", "text_after_vision"]), st.booleans(), st.data())
def test_query_rows_are_those_of_the_prompt(rows: list[str], query: str, drop: bool, data: st.DataObject) -> None:
    flow = flow_of(rows)
    gone: list[set[int]] = [set() for _ in rows]
    if drop:
        kept = some_vision(data.draw, flow)
        for sample, layout in enumerate(flow.layouts):
            gone[sample] = set(layout.positions.tolist()) - set(layout.positions[kept[sample]].tolist())
        flow.drop(kept)
    mask = flow.text_mask(query)
    index, weights = flow.rows(query)
    names = flow.gather(torch.arange(flow.length).expand(len(rows), -1))
    for sample, row in enumerate(rows):
        expected = [i for i in expected_rows(row, query) if i not in gone[sample]]
        assert names[sample, mask[sample]].tolist() == expected
        counted = {int(names[sample, i]): float(w) for i, w in zip(index[sample], weights[sample], strict=True) if w}
        assert counted.keys() == set(expected)
        assert all(abs(weight - 1 / len(expected)) < 1e-6 for weight in counted.values())


def test_text_after_vision_falls_back_to_the_last_token_of_a_prompt_that_ends_with_its_image() -> None:
    flow = flow_of(["ttvv", "tvvt"])
    assert flow.text_mask("text_after_vision").int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]


def test_drafts_are_never_queries() -> None:
    flow = flow_of(["tvvtdd"])
    for query in ("last", "text", "text_after_vision", "received"):
        assert not flow.text_mask(query)[0, 4:].any()


def test_a_forward_without_drops_passes_through() -> None:
    flow = flow_of(["tvvt"], past=5)
    tensor = torch.randn(1, 4, 2)
    assert flow.gather(tensor) is tensor
    queries = flow.queries()
    assert (queries.positions.tolist(), queries.all_valid, queries.moved) == ([[5, 6, 7, 8]], True, False)


def test_reindexed_positions_are_consecutive_and_what_follows_continues_them() -> None:
    flow = flow_of(["pptvvvvt", "tvvvvvvt"], past=10)
    positions = torch.stack([torch.arange(8) + 8, torch.arange(8) + 10])
    flow.drop([torch.tensor([0, 3]), torch.tensor([5])])
    flow.reindex(positions, None)
    assert flow.rotary[0].tolist() == [10, 11, 12, 13]
    assert flow.rotary[1, 1:].tolist() == [10, 11, 12]
    assert flow.shift.tolist() == [2, 5], "the next token's original position less its new one"


def test_reindexing_three_axes_starts_at_the_smallest_and_shifts_by_the_greatest() -> None:
    flow = flow_of(["tvvvvt"])
    axes = torch.tensor([[[0, 1, 1, 1, 1, 3]], [[0, 1, 1, 2, 2, 3]], [[0, 1, 2, 1, 2, 3]]])
    flow.drop([torch.tensor([1])])
    flow.reindex(axes, None)
    assert flow.rotary.tolist() == [[0, 1, 2]]
    assert flow.shift.tolist() == [1]


def test_reindexing_goes_on_where_an_earlier_turn_stopped() -> None:
    flow = flow_of(["tvvt"], past=6)
    flow.drop([torch.tensor([0])])
    flow.reindex(torch.arange(6, 10)[None], torch.tensor([2]))
    assert flow.rotary.tolist() == [[4, 5, 6]]
    assert flow.shift.tolist() == [3]


def test_sizes_follow_the_tokens() -> None:
    flow = flow_of(["tvvt"])
    flow.sizes = torch.tensor([[1.0, 3.0, 2.0, 1.0]])
    flow.drop([torch.tensor([1])])
    assert flow.sizes.tolist() == [[1.0, 2.0, 1.0]]
