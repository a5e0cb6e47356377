"""Checks of tasks: the samples, their order, and the scoring. The first `MOST` samples are looked at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from PIL import Image

from vtprune.core.task import Part, Region, Sample, Task, Video
from vtprune.testing.checking import check, fail
from vtprune.testing.checks.randomness import elsewhere

MOST = 32
NONSENSE = "xqzzy jvkwx"
"""An answer to no question."""


def first(task: Task, most: int = MOST) -> list[Sample]:
    """The first samples."""
    return list(islice(iter(task.samples()), most))


@check("task")
def check_task_yields_samples(task: Task) -> None:
    """``samples`` yields one `Sample` or more."""
    if not isinstance(task.samples(), Iterable):
        fail(f"samples() returned a {type(task.samples()).__name__}, expected an iterable of Sample")
    found = first(task)
    if not found:
        fail("samples() yields nothing", "a filter that nothing passes, or a data set that was not found")
    for number, sample in enumerate(found):
        if not isinstance(sample, Sample):
            fail(f"sample {number} is a {type(sample).__name__}, expected vtprune.plugin.Sample")


@check("task")
def check_sample_ids_are_unique(task: Task) -> None:
    """Every sample has an id of its own, which is not empty."""
    seen: dict[str, int] = {}
    for number, sample in enumerate(first(task)):
        if not isinstance(sample.id, str) or not sample.id:
            fail(f"sample {number} has the id {sample.id!r}, expected text", "a number: write str(number)")
        if (before := seen.setdefault(sample.id, number)) != number:
            fail(
                f"samples {before} and {number} both have the id {sample.id!r}",
                "the id is that of the picture; several questions about it need ids of their own",
            )


@check("task")
def check_samples_have_content(task: Task) -> None:
    """Every sample has text and a picture or video, each of them usable."""
    for number, sample in enumerate(first(task)):
        where = f"sample {number} ({sample.id!r})"
        for part in sample.content:
            if problem := _part_problem(part):
                fail(f"{where}: {problem}")
        if not sample.text.strip():
            fail(f"{where} has no text", "the question was left out of `content`")
        if not sample.visuals:
            fail(f"{where} has neither picture nor video, so there is no vision token to prune")


def _part_problem(part: Part) -> str | None:
    if isinstance(part, str):
        return None
    if isinstance(part, Image.Image):
        return None if min(part.size) > 0 else f"a picture of {part.size[0]} x {part.size[1]} pixels"
    if isinstance(part, Video):
        sizes = {frame.size for frame in part.frames}
        if len(sizes) != 1:
            return (
                f"a video of {len(part.frames)} frames in {len(sizes)} sizes, expected one or more frames of one size"
            )
        return None if part.fps > 0 else f"a video of {part.fps} frames per second"
    return f"content holds a {type(part).__name__}, expected text, a PIL image or a Video"


@check("task")
def check_samples_have_references(task: Task) -> None:
    """Every sample has one reference or more, as a tuple of texts."""
    for number, sample in enumerate(first(task)):
        references: Any = sample.references
        if not isinstance(references, tuple) or not references or not all(isinstance(one, str) for one in references):
            cause = "one text was given for a tuple of them" if isinstance(references, str) else None
            fail(f"sample {number} ({sample.id!r}) has the references {references!r}, expected a tuple of texts", cause)


@check("task")
def check_samples_have_a_type_and_a_group(task: Task) -> None:
    """The type of every sample is a text that is not empty; its group is a text, empty for a sample on its own."""
    for number, sample in enumerate(first(task)):
        kind, group = sample.type, sample.group
        if not isinstance(kind, str) or not kind or not isinstance(group, str):
            fail(f"sample {number} ({sample.id!r}) has the type {kind!r} and the group {group!r}, expected texts")


@check("task")
def check_regions_lie_in_the_visuals(task: Task) -> None:
    """A region names a visual of its sample, a frame of a video, and a box within it that is not empty."""
    for number, sample in enumerate(first(task)):
        for region in sample.regions:
            if problem := _region_problem(region, sample.visuals):
                fail(f"a region of sample {number} ({sample.id!r}) {problem}")


def _region_problem(region: Region, visuals: Sequence[Image.Image | Video]) -> str | None:
    if not 0 <= region.visual < len(visuals):
        return f"lies in visual {region.visual}, but there are {len(visuals)}, counted from 0"
    visual, (left, top, right, bottom) = visuals[region.visual], region.box
    frames = len(visual.frames) if isinstance(visual, Video) else 0
    if region.frame is not None and not 0 <= region.frame < frames:
        return f"lies in frame {region.frame} of {frames}, counted from 0"
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        return (
            f"has the box {region.box}, expected 0 <= left < right <= 1 and 0 <= top < bottom <= 1: shares of the "
            f"width and height; pixels have to be divided by the size"
        )
    return None


@check("task")
def check_samples_come_again(task: Task) -> None:
    """``samples`` begins anew at every call and gives the same samples in the same order."""
    one = first(task)
    with elsewhere():
        other = first(task)
    if len(one) != len(other):
        fail(
            f"{len(one)} samples came first and {len(other)} at the second call",
            "one generator is kept and returned each time; make a new one in samples()",
        )
    for number, (before, after) in enumerate(zip(one, other, strict=True)):
        if before != after:
            what = [
                name
                for name in ("id", "content", "references", "type", "group", "regions")
                if getattr(before, name) != getattr(after, name)
            ]
            fail(
                f"sample {number} is {before.id!r} at the first call and {after.id!r} at the second; they differ in "
                f"{', '.join(what)}",
                "samples are drawn or shuffled with a global random state, or come from a set or a folder in no fixed "
                "order",
            )


@check("task")
def check_iterations_do_not_disturb_each_other(task: Task) -> None:
    """Two iterations over the samples, one begun while the other is under way, both see every sample."""
    expected = first(task)
    outer = iter(task.samples())
    seen = list(islice(outer, 1))
    inner = first(task)
    seen += islice(outer, MOST - 1)
    for name, found in (("one that was begun in between", inner), ("the outer one", seen)):
        if [sample.id for sample in found] != [sample.id for sample in expected]:
            fail(
                f"of two iterations at a time, {name} sees {len(found)} samples, {[s.id for s in found[:3]]} ..., "
                f"expected {len(expected)}, {[s.id for s in expected[:3]]} ...",
                "the place in the data is kept in the task or in an open file that both share",
            )


def _scores(task: Task, sample: Sample) -> dict[str, float]:
    """Scores of the references, of an empty answer, of nonsense, and of a long one."""
    answers = [*dict.fromkeys(sample.references), "", NONSENSE, f"{sample.references[0]} {NONSENSE} " * 20]
    return {answer: task.score(sample, answer) for answer in answers}


@check("task")
def check_scores_lie_between_0_and_1(task: Task) -> None:
    """The score of any answer, an empty or a senseless one too, is a number from 0 to 1."""
    for number, sample in enumerate(first(task)):
        for answer, score in _scores(task, sample).items():
            value: Any = score
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                fail(f"sample {number} ({sample.id!r}): {answer[:40]!r} scores {value!r}, expected a finite float")
            if not 0 <= value <= 1:
                fail(
                    f"sample {number} ({sample.id!r}): {answer[:40]!r} scores {value:g}, expected 0 to 1",
                    "per cent, or a distance in place of a likeness",
                )


@check("task")
def check_references_score(task: Task) -> None:
    """Of a sample's references at least one scores above 0."""
    for number, sample in enumerate(first(task)):
        scores = [task.score(sample, reference) for reference in sample.references]
        if not any(score > 0 for score in scores):
            fail(
                f"sample {number} ({sample.id!r}): none of its references scores above 0, {sample.references[0]!r} "
                f"scores {scores[0]:g}",
                "the answer is normalised before it is compared (lower case, no punctuation), the references are not",
            )


@check("task")
def check_wrong_answers_score_less(task: Task) -> None:
    """A senseless answer scores less than the best reference."""
    for number, sample in enumerate(first(task)):
        best = max(task.score(sample, reference) for reference in sample.references)
        if best > 0 and (nonsense := task.score(sample, NONSENSE)) >= best:
            fail(
                f"sample {number} ({sample.id!r}): {NONSENSE!r} scores {nonsense:g}, its best reference {best:g}",
                "the comparison is always true, e.g. `'' in answer`, or it looks at the length alone",
            )


@check("task")
def check_scoring_is_repeatable(task: Task) -> None:
    """The same answer to the same sample has the same score, whatever was scored before."""
    found = first(task)
    before = [_scores(task, sample) for sample in found]
    after = [_scores(task, sample) for sample in found[::-1]][::-1]
    for number, (one, other) in enumerate(zip(before, after, strict=True)):
        for answer, score in one.items():
            if score != other[answer]:
                fail(
                    f"sample {number} ({found[number].id!r}): {answer[:40]!r} scores {score:g} at first and "
                    f"{other[answer]:g} later",
                    "scores are made relative to earlier answers, or draw at random",
                )


@check("task")
def check_fingerprint_is_stable(task: Task) -> None:
    """The fingerprint is a text that stays the same, for equal tasks too: results are found again by it."""
    twin = task.model_copy(deep=True)
    found = [task.fingerprint(), task.fingerprint(), twin.fingerprint()]
    if not all(isinstance(one, str) for one in found):
        fail(f"fingerprint() returned a {type(found[0]).__name__}, expected text")
    if len(set(found)) > 1:
        fail(
            f"fingerprint() was {found[0]!r}, then {found[1]!r}, and {found[2]!r} of an equal task",
            "a time, a path, the hash() of a text (which differs from process to process) or an object's id",
        )


@check("task")
def check_has_regions_agrees_with_the_samples(task: Task) -> None:
    """``has_regions`` is None, or says of the first N samples what they say themselves."""
    found = first(task)
    for limit in sorted({1, len(found)}) if found else ():
        said, true = task.has_regions(limit), any(sample.regions for sample in found[:limit])
        if said is not None and said is not true:
            fail(
                f"has_regions({limit}) is {said!r}, but of the first {limit} samples "
                f"{'some have' if true else 'none has'} regions",
                "the limit was ignored, or the regions are made only in samples()",
            )


@check("task")
def check_groups_name_types(task: Task) -> None:
    """Groups are named tuples of types, and some sample is of one of these types."""
    groups: Any = task.groups()
    if not isinstance(groups, Mapping):
        fail(f"groups() returned a {type(groups).__name__}, expected a mapping of names to tuples of types")
    for name, types in groups.items():
        if not isinstance(types, tuple) or not types or not all(isinstance(one, str) for one in types):
            fail(
                f"group {name!r} is {types!r}, expected a tuple of types",
                "a single type without a comma: ('count',)" if isinstance(types, str) else None,
            )
    named, seen = {one for types in groups.values() for one in types}, {sample.type for sample in first(task)}
    if named and seen and not named & seen:
        fail(
            f"groups name the types {', '.join(sorted(named))}, but the first samples are of the types "
            f"{', '.join(sorted(seen))}",
            "misspelt types: a group's score is the mean of its types' scores",
        )


@check("task")
def check_answers_may_have_tokens(task: Task) -> None:
    """``max_new_tokens`` is a whole number of at least 1."""
    most: Any = task.max_new_tokens
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        fail(
            f"max_new_tokens is {most!r}, expected a whole number of at least 1",
            "the field was overridden without `Field(ge=1)`",
        )
