"""Where the commands write, and how their errors look: results on stdout, notes and errors on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from vtprune.core.errors import UnknownNameError, VtpruneError

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON only; notes go to stderr.")]


class CliError(VtpruneError):
    """Something asked for on the command line that cannot be done; ``code`` is the exit status."""

    def __init__(self, message: str, code: int = 1) -> None:
        self.code = code
        super().__init__(message)


FILE_WIDTH = 120


def stdout(markup: bool = False) -> Console:
    """The console for results. Made anew each time, so that a redirected ``sys.stdout`` is honoured.

    A file or a pipe has no width of its own and gets `FILE_WIDTH` columns, unless the environment's COLUMNS says
    otherwise.
    """
    from rich.console import Console

    console = Console(file=sys.stdout, markup=markup, highlight=False, emoji=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = FILE_WIDTH
    return console


def note(message: str) -> None:
    """One line on stderr that is not part of the result."""
    typer.echo(f"note: {message}", err=True)


def print_json(data: Any) -> None:
    """``data`` as indented JSON on stdout, without markup or wrapping."""
    typer.echo(json.dumps(data, indent=2, allow_nan=False))


def friendly(command: Callable[P, None]) -> Callable[P, None]:
    """Turn deliberate errors, file errors and Ctrl-C into a message and an exit code; ``--debug`` lets them through."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise
        except (VtpruneError, OSError, UnicodeDecodeError) as error:
            if kwargs.get("debug"):
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(getattr(error, "code", 2 if isinstance(error, UnknownNameError) else 1)) from None

    return guarded
