"""Seconds that a command takes before its first answer, beyond those of the interpreter.

    python -m benchmarks.run cli

Each command runs in a process of its own, in turn with ``python -c pass``, and the medians are subtracted. Output goes
nowhere. A first run of each, which may have to compile modules, is not counted. ``describe --live`` imports what it
shows and is there to compare with.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Took, finish, goal
from vtprune.core.plugins import plugins

LIMIT = 0.3
COMPLETION = {"_VTPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": "vtprune describe g", "COMP_CWORD": "2"}
COMMANDS: Mapping[str, Sequence[str]] = {
    "--help": ("--help",),
    "--version": ("--version",),
    "list": ("list",),
    "plugins": ("plugins",),
    "describe attention": ("describe", "attention"),
    "describe testbed": ("describe", "testbed"),
    "describe llava": ("describe", "llava"),
    "describe plphp": ("describe", "plphp"),
    "validate --help": ("validate", "--help"),
    "completion of a name": (),
    "describe attention --live": ("describe", "attention", "--live"),
}
FREE = {"describe attention --live"}
"""Commands without a goal."""


def ran(command: Sequence[str], environment: Mapping[str, str]) -> Took:
    """Seconds of one process, by the clock and of CPU time."""
    before, started = _cpu_of_children(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return Took(time.perf_counter() - started, _cpu_of_children() - before)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def beyond(command: Sequence[str], extra: Mapping[str, str], repeats: int) -> dict[str, Any]:
    """Medians of a command and of the bare interpreter, and their difference, in seconds."""
    environment = {**os.environ, **extra}
    bare = (sys.executable, "-c", "pass")
    ran(command, environment)
    pairs = [(ran(bare, environment), ran(command, environment)) for _ in range(repeats)]
    found: dict[str, Any] = {"repeats": repeats}
    for clock in ("wall", "cpu"):
        start, whole = (statistics.median(getattr(pair[side], clock) for pair in pairs) for side in (0, 1))
        found[clock] = {
            "interpreter": round(start, 4),
            "command": round(whole, 4),
            "beyond": round(whole - start, 4),
            "fastest": round(min(getattr(pair[1], clock) for pair in pairs), 4),
        }
    return found


def main(options: argparse.Namespace) -> None:
    """Time every command; goals are on the clock on the wall."""
    script = Path(sys.executable).with_name("vtprune")
    repeats = options.repeats or (1 if options.toy else 15)
    records, goals = {}, []
    for name, arguments in list(COMMANDS.items())[: 3 if options.toy else None]:
        record = beyond((str(script), *arguments), {} if arguments else COMPLETION, repeats)
        records[name] = record
        print(f"{name}: {record['wall']['beyond']:.3f} s ({record['cpu']['beyond']:.3f} s of CPU time)", flush=True)
        if name not in FREE:
            goals.append(goal(f"seconds beyond the interpreter's start, {name}", record["wall"]["beyond"], LIMIT))
    installed = [f"{plugin.distribution} {plugin.version}" for plugin in plugins()]
    finish("cli", options, {"plugins": installed, "commands": records}, goals)
