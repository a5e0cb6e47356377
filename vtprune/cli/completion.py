"""What a shell offers for the names on a command line, with summaries; nothing here imports torch.

Typer asks one of these for each argument with the word so far. What starts otherwise is left out, and where nothing is
left the shell completes file names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from vtprune.core.errors import VtpruneError

COMPONENTS = ("scorer", "allocator", "selector", "reducer", "task")
Offer = Callable[[str], list[tuple[str, str]]]


def _offer(pairs: Callable[[], Iterable[tuple[str, str]]]) -> Offer:
    """Keep what starts with the word so far; a broken installation offers nothing, and a key press no traceback."""

    def offered(incomplete: str) -> list[tuple[str, str]]:
        try:
            return [(name, text) for name, text in pairs() if name.startswith(incomplete)]
        except (VtpruneError, OSError):
            return []

    return offered


def _registered(*kinds: str) -> Iterator[tuple[str, str]]:
    """Names of some kinds (all if none is given) and what each is; a name of several kinds once."""
    from vtprune.core.plugins import registry

    texts: dict[str, list[str]] = {}
    for entry in registry().entries():
        if not kinds or entry.kind in kinds:
            texts.setdefault(entry.name, []).append(f"{entry.kind}: {entry.summary}" if not kinds else entry.summary)
    yield from ((name, "; ".join(found)) for name, found in texts.items())


def _distributions() -> Iterator[tuple[str, str]]:
    from vtprune.core.plugins import plugins

    yield from {one.distribution: f"{one.version}, {one.state}" for one in plugins()}.items()


def _checkable() -> Iterator[tuple[str, str]]:
    yield from _distributions()
    yield from _registered(*COMPONENTS, "adapter")


def _studies() -> Iterator[tuple[str, str]]:
    from vtprune.studies import shipped

    yield from shipped().items()


def _models() -> Iterator[tuple[str, str]]:
    from vtprune.loading import TESTBED
    from vtprune.testbed.models import names

    yield from ((f"{TESTBED}{name}", "a trained miniature model") for name in names())


any_name = _offer(_registered)
"""Every registered name."""
recipe_name = _offer(lambda: _registered("recipe"))
"""Recipes; files too, by the shell itself."""
study_name = _offer(_studies)
"""Studies that come with vtprune."""
model_name = _offer(_models)
"""Models of the testbed."""
distribution_name = _offer(_distributions)
"""Distributions with a plugin, vtprune among them."""
checkable = _offer(_checkable)
"""What the conformance suite can check: distributions, components, tasks and adapters."""
