"""What a shell offers for the names on a command line, with summaries; nothing here imports torch.

Typer asks one of these for each argument with the word so far. What starts otherwise is left out, and where nothing is
left the shell completes file names.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vtprune.core.errors import VtpruneError
from vtprune.core.registry import STAGE_KINDS

COMPONENTS = (*STAGE_KINDS, "task")
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3")
"""The attention implementations that vtprune prunes under."""
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


def _kinds() -> Iterator[tuple[str, str]]:
    from vtprune.core.registry import KINDS

    yield from ((f"{kind}s", "") for kind in KINDS)


def _checks() -> Iterator[tuple[str, str]]:
    """Names of the conformance checks, from their sources: importing them takes seconds."""
    testing = Path(__file__).parents[1] / "testing"
    for path in sorted([*testing.glob("checks/*.py"), *testing.glob("adapter_suite/*.py")]):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(_makes_check(one) for one in node.decorator_list):
                summary = (ast.get_docstring(node) or "").partition("\n\n")[0]
                yield node.name.removeprefix("check_"), " ".join(summary.split())


def _makes_check(decorator: ast.expr) -> bool:
    name = decorator.func if isinstance(decorator, ast.Call) else None
    return isinstance(name, ast.Name) and name.id in ("check", "adapter_check")


def _families() -> Iterator[tuple[str, str]]:
    """Adapters; not those that only say why their family is refused."""
    from vtprune.cli.source.adapter import read_adapter
    from vtprune.core.plugins import registry
    from vtprune.core.sources import UnreadableError

    for entry in registry().entries("adapter"):
        try:
            if read_adapter(entry.target).get("unsupported") is not None:
                continue
        except UnreadableError:
            pass
        yield entry.name, entry.summary


def _modes() -> Iterator[tuple[str, str]]:
    from vtprune.verify.modes import MODES

    yield from ((mode.name, mode.summary) for mode in MODES.values())


def _subjects() -> Iterator[tuple[str, str]]:
    from vtprune.verify.subjects import SUBJECTS

    yield from ((name, "") for name in SUBJECTS)


any_name = _offer(_registered)
"""Every registered name."""
kind_name = _offer(_kinds)
"""Kinds of what is registered, in the plural."""
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
check_name = _offer(_checks)
"""Conformance checks."""
family_name = _offer(_families)
"""Families that can be verified."""
mode_name = _offer(_modes)
"""Ways of calling a model in which removal is verified."""
subject_name = _offer(_subjects)
"""Sites and methods that are verified."""
attention_name = _offer(lambda: ((name, "") for name in ATTENTIONS))
"""Attention implementations."""
