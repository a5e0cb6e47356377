"""When two runs agree, and that disagreements are found however they look."""

from __future__ import annotations

import pytest
import torch

from vtprune.verify.compare import Disagreement, Seen, check_agree, check_identical, distance, effect

TOKENS = torch.tensor([[0, 1, 2, 0]])
LOGITS = torch.nn.functional.one_hot(TOKENS.T, 3).float()


def steps(tokens: torch.Tensor = TOKENS, logits: torch.Tensor = LOGITS, tied: bool = True) -> Seen:
    return Seen(tokens=tokens, logits=logits, tied=tied)


def test_the_same_agrees_and_is_identical() -> None:
    check_agree(steps(), steps(), "x")
    check_identical(steps(), steps(), "x")
    assert effect(steps(), steps(), None) == 0


def test_identical_means_every_bit() -> None:
    other = steps(logits=LOGITS + 1e-7)
    check_agree(steps(), other, "x")
    with pytest.raises(Disagreement, match=r"keeping everything: logits differ by 1\.2e-07"):
        check_identical(steps(), other, "keeping everything")


def test_something_missing_is_not_identical() -> None:
    with pytest.raises(Disagreement, match="forward differ"):
        check_identical(Seen(forward=LOGITS), Seen(), "x")


@pytest.mark.parametrize("tied", [True, False])
def test_logits_beyond_the_tolerance(tied: bool) -> None:
    with pytest.raises(Disagreement, match=r"by 2\.\de-05, more than 1\.0e-05"):
        check_agree(steps(tied=tied), steps(logits=LOGITS + 2e-5, tied=tied), "x")


def test_another_token_is_forgiven_only_in_a_tie_and_only_late() -> None:
    tie = LOGITS.clone()
    tie[2, 0, 1] = 1.0
    other = torch.tensor([[0, 1, 1, 2]])
    check_agree(steps(other, tie), steps(TOKENS, tie), "x")
    with pytest.raises(Disagreement, match="other token at step 2"):
        check_agree(steps(other), steps(), "x")
    early = LOGITS.clone()
    early[0, 0, 1] = 1.0
    with pytest.raises(Disagreement, match="ties left only 1 of 4 steps"):
        check_agree(steps(torch.tensor([[1, 1, 1, 1]]), early), steps(TOKENS, early), "x")


def test_sampled_tokens_may_not_differ_at_all() -> None:
    tie = LOGITS.clone()
    tie[2, 0, 1] = 1.0
    with pytest.raises(Disagreement, match="other tokens"):
        check_agree(steps(torch.tensor([[0, 1, 1, 0]]), tie, tied=False), steps(TOKENS, tie, tied=False), "x")


def test_only_the_rows_that_mean_something_count() -> None:
    one, other = torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)
    other[0, 1] = 1.0
    check_agree(Seen(forward=one), Seen(forward=other), "x", torch.tensor([[True, False]]))
    with pytest.raises(Disagreement, match="logits of the prompt"):
        check_agree(Seen(forward=one), Seen(forward=other), "x", torch.tensor([[False, True]]))
    assert effect(Seen(forward=one), Seen(forward=other), torch.tensor([[True, False]])) == 0
    assert effect(Seen(forward=one), Seen(forward=other), None) == 1


def test_gradients() -> None:
    one, other = Seen(gradients={"w": torch.ones(2)}), Seen(gradients={"w": torch.tensor([1.0, 1.001])})
    check_agree(one, Seen(gradients={"w": torch.ones(2), "unused": torch.zeros(2)}), "x")
    with pytest.raises(Disagreement, match=r"gradient of w differs by 1\.0e-03"):
        check_agree(one, other, "x")
    with pytest.raises(Disagreement, match="gradient of w is missing on one side"):
        check_identical(one, Seen(), "x")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_never_agree(bad: float) -> None:
    broken = torch.full((1, 1, 3), bad)
    with pytest.raises(Disagreement, match="not finite"):
        check_agree(Seen(forward=broken), Seen(forward=broken), "x")


def test_other_shapes_never_agree() -> None:
    with pytest.raises(Disagreement, match=r"shape \(1, 2\) instead of \(2, 2\)"):
        distance(torch.zeros(1, 2), torch.zeros(2, 2))
    with pytest.raises(Disagreement, match="tokens of shape"):
        check_agree(steps(TOKENS[:, :2], LOGITS[:2]), steps(), "x")
