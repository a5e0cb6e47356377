"""The pretended device refuses what CUDA refuses, and the checks of devices and purity find what is broken."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.testing.broken import devices as broken
from tests.testing.finding import assert_found, names_in
from vtprune.core.component import COMPONENT_KINDS, Component
from vtprune.testing.checks import devices, purity, reducers, selector_values, selectors
from vtprune.testing.pretend_device import FAR, Far, MixedDevicesError, pretended_device

NAMES = names_in(purity, devices)
CASES = [(name, component) for name, components in broken.BROKEN.items() for component in components]


@pytest.mark.parametrize(("name", "component"), CASES)
def test_a_check_finds_its_broken_component(name: str, component: type[Component]) -> None:
    every = names_in(purity, devices, reducers, selector_values, selectors, kind=component.kind)
    assert_found(name, component, every, broken.ALSO.get(component, set()))


def test_every_check_has_a_broken_component_of_each_kind() -> None:
    assert set(broken.BROKEN) == NAMES
    assert all(sorted(one.kind for one in ones) == sorted(COMPONENT_KINDS) for ones in broken.BROKEN.values())


ALLOWED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "arithmetic": lambda far, near: far * 2 + far,
    "a number": lambda far, near: far + near[0, 0],
    "a number first": lambda far, near: near[0, 0] * far,
    "an index on the CPU": lambda far, near: far[torch.tensor([2, 0])],
    "a list": lambda far, near: far[:, [1, 0]],
    "a mask": lambda far, near: far[far > 3],
    "a number for an index": lambda far, near: far.index_put((torch.tensor([1]),), near[0, 0]),
    "where": lambda far, near: torch.where(far > 3, far, 0.0),
    "made there": lambda far, near: far + torch.arange(4, device=far.device),
    "made of numbers there": lambda far, near: far + torch.tensor([1.0, 2, 3, 4], device=far.device),
    "made of numbers like it": lambda far, near: far + far.new_tensor([1.0, 2, 3, 4]),
    "moved": lambda far, near: far + near.to(far.device),
    "moved like it": lambda far, near: far + near.to(far),
    "sort": lambda far, near: far.gather(-1, far.argsort(dim=-1, stable=True)),
    "matrices": lambda far, near: torch.einsum("ij,kj->ik", far, far),
    "a slice that ends at a value": lambda far, near: far[: far.long()[0, 2]],
    "cat": lambda far, near: torch.cat([far, far]),
}
REFUSED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "arithmetic": lambda far, near: far + near,
    "arithmetic in place": lambda far, near: near.add_(far),
    "a far number": lambda far, near: far[0, 0] + near,
    "made without a device": lambda far, near: far + torch.arange(4),
    "an index on the device": lambda far, near: near[torch.tensor([1]).to(far.device)],
    "a mask on the device": lambda far, near: near[far > 3],
    "values for an index": lambda far, near: far.index_put((torch.tensor([1]).to(far.device),), near[:1]),
    "where": lambda far, near: torch.where(far > 3, far, near),
    "cat": lambda far, near: torch.cat([far, near]),
    "stacked numbers": lambda far, near: torch.stack([far[0, 0], near[0, 0]]),
    "gather": lambda far, near: far.gather(-1, near.long()),
    "scatter": lambda far, near: near.scatter(-1, far.long() % 4, 1.0),
    "index_select": lambda far, near: far.index_select(0, torch.tensor([1])),
    "matrices": lambda far, near: near @ far.T,
    "a generator of the CPU": lambda far, near: torch.rand(3, generator=torch.Generator(), device=far.device),
}


def pair() -> tuple[Tensor, Tensor]:
    near = torch.arange(12.0).view(3, 4)
    return near.to(FAR), near.clone()


@pytest.mark.parametrize("operation", ALLOWED)
def test_what_cuda_allows_gives_what_the_cpu_gives(operation: str) -> None:
    with pretended_device() as device:
        far, near = pair()
        made = ALLOWED[operation](far, near)
        assert isinstance(made, Far)
        assert made.device == device
        assert torch.equal(made.cpu(), ALLOWED[operation](near, near))


@pytest.mark.parametrize("operation", REFUSED)
def test_what_cuda_refuses_is_refused(operation: str) -> None:
    with pretended_device(), pytest.raises(MixedDevicesError):
        REFUSED[operation](*pair())


def test_values_can_be_read_and_written_across() -> None:
    with pretended_device():
        far, near = pair()
        assert (far.tolist(), far[1, 2].item(), float(far.sum()), bool(far.any())) == (near.tolist(), 6.0, 66.0, True)
        assert f"{far[0, 1]:.2f}" == "1.00"
        near.copy_(far * 2)
        far[0] = near[1]
        assert (near[2, 3].item(), far[0].tolist()) == (22.0, near[1].tolist())
        assert [type(far.cpu()), type(far.to("cpu"))] == [Tensor, Tensor]
        with pytest.raises((RuntimeError, TypeError)):
            far.numpy()


def test_outside_the_context_nothing_is_pretended() -> None:
    with pretended_device():
        pass
    assert type(torch.zeros(2, device=FAR)) is Tensor
