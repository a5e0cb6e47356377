"""Checks of what an adapter provides: each signal can be read, and what it does not provide is refused."""

from __future__ import annotations

from torch import Tensor

from vtprune.core.errors import BindingError, VtpruneError
from vtprune.core.report import Report
from vtprune.core.signals import Need
from vtprune.testing.adapter_suite.encoding import noting
from vtprune.testing.adapter_suite.frame import adapter_check, blaming
from vtprune.testing.adapter_suite.trial import Spy, Trial
from vtprune.testing.checking import fail

ROUNDING = 1e-4


def needs_of(trial: Trial) -> list[tuple[str, Need]]:
    """A need of each kind, with the kind of site at which it is read."""
    row = trial.adapter.cls_row(trial.model)
    query = "received" if row is None or isinstance(row, bool) else "cls"
    return [
        ("projector", Need("features")),
        ("projector", Need("grid")),
        ("projector", Need("text", "last")),
        ("projector", Need("sample_seed")),
        ("projector", Need("annotation")),
        ("projector", Need("vision_attention", query, 0)),
        ("kv", Need("keys")),
        ("kv", Need("values")),
        ("kv", Need("queries")),
        ("kv", Need("attention", "last")),
    ]


def _shape(trial: Trial, need: Need, vision: int) -> list[int | None]:
    """The shape of one sample's signal; None for a size that is the model's own affair."""
    kind = trial.kinds[trial.cached_layer]
    shapes: dict[str, list[int | None]] = {
        "features": [vision, None],
        "grid": [vision, 4],
        "text": [None],
        "sample_seed": [],
        "annotation": [vision],
        "vision_attention": [None, vision],
        "keys": [kind.kv_heads, vision, None],
        "values": [kind.kv_heads, vision, None],
        "queries": [kind.kv_heads * kind.groups, vision, None],
        "attention": [kind.kv_heads * kind.groups, vision],
    }
    return shapes[need.kind]


def _provides(trial: Trial, need: Need) -> bool:
    adapter = trial.adapter
    return need.kind in adapter.provides and (need.kind != "vision_attention" or adapter.tower_rows is not None)


@adapter_check()
def check_adapter_provides_what_it_says(trial: Trial) -> None:
    """Every signal that the adapter provides can be read, for every sample, with the right shape."""
    for site, need in needs_of(trial):
        if not _provides(trial, need):
            continue
        cause = f"`provides` claims {need.kind!r}"
        if need.kind == "vision_attention":
            cause = "`tower_rows`, `vision_attention`, or `provides` claims 'vision_attention'"
        if need.kind == "grid":
            cause = "`images` gives no grid for some image, but `provides` claims 'grid'"
        with blaming(cause):
            seen, report = trial.spied("batch", site, need)
        _check_shapes(trial, need, [values[need] for _, values in seen], report, cause)


def _check_shapes(trial: Trial, need: Need, values: list[Tensor], report: Report, cause: str) -> None:
    layouts = [layout for layout in report.layouts if layout.vision]
    for layout, value in zip(layouts, values, strict=True):
        expected = _shape(trial, need, layout.vision)
        fits = len(expected) == value.dim() and all(
            size is None or size == got for size, got in zip(expected, value.shape, strict=True)
        )
        if not fits:
            fail(f"{need} of a sample with {layout.vision} vision tokens has shape {list(value.shape)}", cause)
        if value.is_floating_point() and not bool(value.isfinite().all()):
            fail(f"{need} is not finite", cause)
        if need.kind in ("attention", "vision_attention") and not bool((value >= 0).all() & (value > 0).any()):
            fail(f"{need} is negative, or 0 for every token", cause)
        if need.kind == "attention" and float(value.sum(-1).max()) > 1 + ROUNDING:
            fail(f"{need} of a head sums to {float(value.sum(-1).max()):.3g}; expected at most 1", cause)
        if need.kind == "vision_attention" and float(value.std()) < 1e-7:
            fail(f"{need} is the same for every token", cause)


def _refuses(trial: Trial, what: str, cause: str, site: str, **stage: object) -> None:
    """Binding a stage must raise BindingError, and nothing may have run."""
    try:
        with trial.prune("projector", site=site, **stage):
            pass
    except BindingError:
        return
    except VtpruneError as error:
        fail(
            f"{what} was refused by {type(error).__name__} ({error}); expected BindingError before anything runs", cause
        )
    fail(f"{what} was not refused when the recipe was bound", cause)


@adapter_check()
def check_adapter_refuses_what_it_does_not_provide(trial: Trial) -> None:
    """Signals and sites that the adapter does not offer are refused when a recipe is bound, before anything runs."""
    adapter = trial.adapter
    with noting(trial.model, lambda *_: 1, before=True) as ran:
        for site, need in needs_of(trial):
            if not _provides(trial, need):
                cause = "`provides`, or `tower_rows` for attention inside the tower"
                _refuses(
                    trial,
                    f"{need}, which the adapter does not provide,",
                    cause,
                    trial.site(site),
                    scorer=Spy(wanted=(need,)),
                )
        if adapter.cls_row(trial.model) is None or isinstance(adapter.cls_row(trial.model), bool):
            need = Need("vision_attention", "cls", 0)
            _refuses(
                trial,
                f"{need} in a tower without a CLS token",
                "`cls_row`: None says that there is none",
                "projector.output",
                scorer=Spy(wanted=(need,)),
            )
        if adapter.projector is None or adapter.projector_rows is None:
            _refuses(trial, "vision.output, without `projector_rows`,", "`projector_rows`", "vision.output")
        if adapter.tower_depth is None:
            _refuses(trial, "vision.layers[0], without `tower_depth`,", "`tower_depth`", "vision.layers[0]")
    if ran:
        fail("the model ran while a recipe was bound", "a function of the adapter calls the model")
