"""How a check of adapters is written: `adapter_check`, and `blaming` to say which field is at fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import torch

from vtprune.core.errors import VtpruneError
from vtprune.testing.adapter_suite.trial import Trial
from vtprune.testing.checking import Violation, check, fail
from vtprune.testing.run import place_of
from vtprune.verify.compare import Disagreement
from vtprune.verify.prompts import NotApplicable

Applies = Callable[[Trial], str | None]
ANY: Applies = lambda trial: None  # noqa: E731


Body = Callable[[Trial], None]


def adapter_check(applies: Applies = ANY, refused: bool = False) -> Callable[[Body], Body]:
    """Put a function ``check_adapter_...(trial)`` on the list of checks of adapters.

    applies: returns None where the check concerns a trial, else the reason why not; what it raises is left for the
        check itself to meet. refused: whether it also concerns adapters that refuse their family (`unsupported`), and
        runs no model.
    """

    def register(function: Body) -> Body:
        def unless(trial: Trial) -> str | None:
            if not trial.has_model and not refused:
                return "the adapter refuses every model of its family (`unsupported`)"
            try:
                with trial.active():
                    return applies(trial)
            except Exception:
                return None

        @wraps(function)
        def run(trial: Trial) -> None:
            with trial.active(), torch.enable_grad():
                function(trial)

        return check("adapter", applies=unless, slow=not refused)(run)

    return register


def declares(*fields: str) -> Applies:
    """For checks of optional fields: applies if the adapter declares all of them."""

    def applies(trial: Trial) -> str | None:
        absent = [field for field in fields if getattr(trial.adapter, field) is None]
        return f"the adapter declares no {' and no '.join(f'`{field}`' for field in absent)}" if absent else None

    return applies


def all_of(*conditions: Applies) -> Applies:
    """Applies if all of these do."""
    return lambda trial: next((reason for each in conditions if (reason := each(trial)) is not None), None)


@contextmanager
def blaming(cause: str) -> Iterator[None]:
    """Whatever is raised, and disagreements with a reference, become violations with this likely cause."""
    try:
        yield
    except Violation:
        raise
    except (Disagreement, NotApplicable) as error:
        fail(str(error), cause)
    except VtpruneError as error:
        fail(f"{type(error).__name__}: {error}", cause)
    except Exception as error:
        fail(f"raised {type(error).__name__}: {error}{place_of(error)}", cause)
