from __future__ import annotations

import pytest

import vtprune.errors
from vtprune.core import errors
from vtprune.core.errors import BindingError, RecipeError, VtpruneError, bulleted, did_you_mean, first_line

EVERY = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
]


@pytest.mark.parametrize("kind", EVERY)
def test_each_is_a_vtprune_error_and_says_what_it_means(kind):
    assert issubclass(kind, VtpruneError)
    assert kind.__doc__


@pytest.mark.parametrize("kind", [*EVERY, errors.PluginWarning])
def test_each_can_be_caught_by_a_public_name(kind):
    assert getattr(vtprune.errors, kind.__name__) is kind
    assert kind.__name__ in vtprune.errors.__all__


def test_problems_are_all_shown_and_kept():
    error = RecipeError(["first", "second"], "my.yaml")
    assert error.problems == ("first", "second")
    assert str(error) == "my.yaml is not valid (2 problems):\n  - first\n  - second"


def test_a_single_problem_is_not_counted():
    assert bulleted("bad", ["only"]) == "bad:\n  - only"


def test_a_binding_error_names_recipe_and_model():
    error = BindingError(["no attention"], "fastv", "LlavaForConditionalGeneration")
    assert str(error).startswith("recipe 'fastv' cannot be bound to LlavaForConditionalGeneration:")
    assert error.problems == ("no attention",)


@pytest.mark.parametrize(
    ("name", "known", "clause"),
    [
        ("atention", ["attention", "random"], " Did you mean 'attention'? Known: attention, random."),
        ("top_k2", ["top_k", "top_p"], " Did you mean 'top_k' or 'top_p'? Known: top_k, top_p."),
        ("zzz", ["b", "a"], " Known: a, b."),
        ("zzz", [], " Known: none."),
        ("atention", ["attention", *map(str, range(40))], " Did you mean 'attention'?"),
    ],
)
def test_did_you_mean(name, known, clause):
    assert did_you_mean(name, known) == clause


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (OSError("\n  later\nstill"), "OSError: later"),
        (KeyboardInterrupt(), "KeyboardInterrupt: no message"),
        (RuntimeError(" \n"), "RuntimeError: no message"),
    ],
)
def test_the_first_line_of_an_error(error: BaseException, line: str) -> None:
    assert first_line(error) == line
