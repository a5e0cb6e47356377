"""What every task owes: the conformance checks, over the examples of those that come with vtprune."""

from __future__ import annotations

from vtprune.builtins import TASKS
from vtprune.core.task import Task
from vtprune.tasks.jsonl import EXAMPLES, FILE, Jsonl
from vtprune.tasks.scoring import SCORINGS
from vtprune.testing import Check, parametrize_with_checks


@parametrize_with_checks(*TASKS, in_model=False)
def test_conformance(component: Task, check: Check) -> None:
    check(component)


def test_the_examples_of_jsonl_show_every_scoring_and_kind_of_visual() -> None:
    examples = Jsonl.examples()
    assert {example.scoring for example in examples} == set(SCORINGS)
    assert {example.path for example in examples} == {path.parent for path in EXAMPLES.glob(f"*/{FILE}")}
    shown = [[type(part).__name__ for part in sample.content] for example in examples for sample in example.samples()]
    assert ["Image", "str"] in shown
    assert ["Image", "Image", "str"] in shown
    assert ["Video", "str"] in shown
