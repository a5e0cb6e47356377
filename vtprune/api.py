"""The public entry: prune a model for the time of a with-block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from vtprune.core.engine.attention import implementation
from vtprune.core.engine.compiled import uncompiled
from vtprune.core.engine.cost import CostModel
from vtprune.core.engine.hooks import Engine
from vtprune.core.engine.plan import bind
from vtprune.core.errors import BindingError, VtpruneError
from vtprune.core.layout import SampleLayout
from vtprune.core.plugins import registry
from vtprune.core.recipe import Recipe
from vtprune.core.registry import KINDS, Registration
from vtprune.core.report import Report
from vtprune.verify.index import warn_unverified

_running: WeakKeyDictionary[nn.Module, list[Engine]] = WeakKeyDictionary()


class Run:
    """A recipe bound to a model; a context manager.

    Inside the with-block the model prunes; on leaving, also by an exception, it is exactly as it was. Of nested runs on
    one model the innermost acts. A run may be entered again.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, share_images: bool = False) -> None:
        model = uncompiled(model)
        self.model, self.recipe = model, recipe
        plan = bind(recipe, model)
        warn_unverified(
            plan.parts.adapter.name,
            [stage.site.kind for stage in recipe.stages],
            implementation(plan.parts.language_model.config),
            type(model).__name__,
        )
        self._engine = Engine(plan)
        if share_images and not self.can_share_images:
            raise BindingError(
                [
                    f"share_images: adapter {self._engine.parts.adapter.name!r} does not say which images of a batch "
                    f"are the same (it has no `unique`); leave share_images out"
                ],
                recipe.name,
                type(model).__name__,
            )
        self._engine.vision.share_images = share_images

    @property
    def can_share_images(self) -> bool:
        """Whether an image that stands in a batch several times can be encoded once."""
        return self._engine.parts.adapter.unique is not None

    @property
    def cost(self) -> CostModel:
        """What a token costs in this model: FLOPs and KV bytes of each decoder layer."""
        return self._engine.cost

    def annotate(self, say: Callable[[int, SampleLayout], Tensor] | None) -> None:
        """Say something about the vision tokens of the next prompts, for components that need an ``annotation``.

        say: called with a sample's number in the batch and its layout; returns one number per vision token of the
            prompt, ``[vision]``. None takes it back; else it stays until changed.
        """
        self._engine.prompt.annotate = say

    def __enter__(self) -> Run:
        engines = _running.setdefault(self.model, [])
        if self._engine in engines:
            raise VtpruneError("this run is already active; make a second one with vtprune.prune to nest it")
        if engines:
            engines[-1].detach()
        try:
            self._engine.attach()
        except BaseException:
            self._resume()
            raise
        engines.append(self._engine)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        engines = _running.get(self.model, [])
        innermost = bool(engines) and engines[-1] is self._engine
        if self._engine in engines:
            engines.remove(self._engine)
        self._engine.detach()
        if innermost:
            self._resume()

    def _resume(self) -> None:
        engines = _running.get(self.model, [])
        if engines:
            engines[-1].attach()
        else:
            _running.pop(self.model, None)

    @property
    def report(self) -> Report:
        """What happened to the latest prompt; raises VtpruneError before the first one."""
        report = self._engine.recorder.report
        if report is None:
            raise VtpruneError(
                "no prompt has been pruned yet; call model.generate(...) or model(...) inside the with-block"
            )
        return report

    @property
    def reports(self) -> list[Report]:
        """The reports of the latest prompts of this run (64 at most), oldest first; read each one after its prompt if
        all are wanted."""
        return list(self._engine.recorder.reports)


def prune(
    model: nn.Module,
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    share_images: bool = False,
    **overrides: Any,
) -> Run:
    """Prune ``model`` by ``recipe`` inside a with-block.

    model: a transformers vision-language model of a supported family, unmodified.
    recipe: a registered name, the path of a YAML file, a mapping, or a `Recipe`.
    overrides: changes to the recipe by dotted path, e.g. ``**{"stages.0.budget": 0.25}``, or with ``__`` for the dots;
        for a recipe with one stage its fields can be named directly: ``budget=0.25``.
    share_images: encode an image that stands in a batch several times (many questions about one picture) only once.
        Faster; the tower then runs on a smaller batch, which may change the last bits of its output. The report's FLOPs
        stay those of every image by itself, so that what a sample costs does not depend on the others.

    Outputs keep their shapes: the rows of dropped tokens come out of the language model as zeros, so logits there mean
    nothing. In training nothing is learned from the label that such a row predicts, which is that of the *next* token:
    where a text token follows an image, protect the image's last token or set that label to -100. With
    ``output_hidden_states`` the states of the layers are those of the tokens that are left. In training call
    ``backward`` inside the with-block.

    Gives an UnverifiedWarning, once per combination and process, where nothing in the ledger of the installed
    transformers shows that the family can be pruned at such a site with this attention; see docs/verification.md.
    Raises RecipeError (every problem of the recipe), UnknownNameError, UnsupportedModelError or BindingError (every way
    in which the recipe does not fit the model), all before anything runs.

    >>> with vtprune.prune(model, "plphp", budget=0.3) as run:      # doctest: +SKIP
    ...     tokens = model.generate(**inputs)
    >>> run.report.kept(layer=4, head=0)                            # doctest: +SKIP
    """
    return Run(model, Recipe.load(recipe, **overrides), share_images)


def observe(model: nn.Module, *, share_images: bool = False) -> Run:
    """Prune nothing, but report: token counts, KV bytes and FLOPs of the model as it is, inside a with-block.

    share_images: as of `prune`. Raises UnsupportedModelError or BindingError, as `prune` does.

    >>> with vtprune.observe(model) as run:      # doctest: +SKIP
    ...     tokens = model.generate(**inputs)
    >>> run.report.kv_bytes                      # doctest: +SKIP
    """
    return Run(model, Recipe.model_construct(name="none", description="no pruning", stages=()), share_images)


def components(kind: str | None = None) -> list[Registration]:
    """What is registered: scorers, allocators, selectors, reducers, adapters, recipes and tasks, or those of one
    kind.

    kind: singular or plural (``"scorer"``, ``"scorers"``). Raises VtpruneError for an unknown kind.
    """
    if kind is not None:
        kind = kind.removesuffix("s")
        if kind not in KINDS:
            raise VtpruneError(f"unknown kind {kind!r}; kinds: {', '.join(KINDS)}")
    return list(registry().entries(kind))
