"""Real plugin packages, built into wheels and installed, each into a folder of its own."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hatchling.builders.wheel import WheelBuilder

PACKAGES = Path(__file__).parent / "packages"
ROOT = Path(__file__).resolve().parents[2]
GOOD = ("good", "slow_import", "heavy_import", "bad_target")
"""Packages that load, whatever becomes of them later."""
BROKEN = {
    "broken_import": ("acme-broken-import", "failed", "No module named 'no_such_package_of_acme'"),
    "typo_hook": ("acme-typo-hook", "failed", "vtprune_registr"),
    "name_clash": ("acme-name-clash", "failed", "'acme-name-clash/entropy' is registered twice"),
    "raising_hook": ("acme-raising-hook", "failed", "the licence server of acme is down"),
    "half_way": ("acme-half-way", "failed", "KeyError: 'three'"),
    "old_api": ("acme-old-api", "incompatible", "plugin API -1 to 0, this vtprune has 1"),
    "too_new_vtprune": ("acme-too-new-vtprune", "incompatible", "asks for vtprune>=1000"),
}
"""Packages that do not load: distribution, state, and part of the reason."""
HEAVY = ("torch", "transformers")
COMMAND = """\
import sys
from vtprune.cli import main
try:
    main()
finally:
    print("heavy:", [name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""


@dataclass(frozen=True)
class Done:
    """A process that ended. heavy: which of `HEAVY` it had imported at its end."""

    code: int
    out: str
    err: str
    heavy: tuple[str, ...]

    @property
    def data(self) -> Any:
        """Its standard output, as JSON."""
        return json.loads(self.out)


class Site:
    """Installs packages where they are asked for the first time, once for all workers of a session.

    shared: a folder that all of them see; sources: where the packages lie.
    """

    def __init__(self, shared: Path, sources: Path = PACKAGES) -> None:
        self._shared, self._sources = shared, sources

    def folder(self, package: str) -> Path:
        """Where a package is installed; goes on ``PYTHONPATH``."""
        installed = self._shared / package
        with _locked(self._shared / f"{package}.lock"):
            if not installed.exists():
                (wheel,) = WheelBuilder(str(self._sources / package)).build(
                    directory=str(self._shared / f"{package}-wheel"), versions=["standard"]
                )
                making = self._shared / f"{package}-installing"  # a session that was stopped leaves nothing half done
                _install(Path(wheel), making)
                making.rename(installed)
        return installed

    def environment(self, packages: Sequence[str], switches: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a process that has these packages, and no others, beside those of the interpreter."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("VTPRUNE_")}
        path = os.pathsep.join([*(str(self.folder(package)) for package in packages), str(ROOT)])
        offline = {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "NO_COLOR": "1"}
        return {**kept, **offline, "PYTHONPATH": path, **(switches or {})}

    def vtprune(
        self,
        *arguments: object,
        packages: Sequence[str] = (),
        switches: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Done:
        """Run ``vtprune ARGUMENTS`` where these packages are installed."""
        code = COMMAND.format(heavy=HEAVY)
        return self.python(code, *arguments, packages=packages, switches=switches, cwd=cwd)

    def python(
        self,
        code: str,
        *arguments: object,
        packages: Sequence[str] = (),
        switches: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Done:
        """Run Python code where these packages are installed."""
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=600,
            cwd=cwd or self._shared,
            env=self.environment(packages, switches),
        )
        lines = [line for line in done.stderr.splitlines() if line.startswith("heavy: ")]
        heavy = tuple(name for name in HEAVY if lines and repr(name) in lines[-1])
        return Done(done.returncode, done.stdout, done.stderr, heavy)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Inside, no other process is inside with the same path."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(wheel: Path, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    options = ["--no-deps", "--no-index", "--no-compile", "--target", str(folder)]
    done = subprocess.run([*pip, *options, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
