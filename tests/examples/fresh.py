"""A fresh environment outside of the checkout, into which wheels are installed as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PACKAGES = ("vtprune-borrowed", "vtprune-deepseek")
OURS = ("PYTHON", "PYTEST", "PIP_", "VTPRUNE_", "VIRTUAL_ENV")
"""How variables begin that would let the surrounding environment in."""


@dataclass(frozen=True)
class Fresh:
    """An environment in ``folder/env``; commands run in ``folder/work``, which holds nothing of the checkout."""

    folder: Path

    @property
    def scripts(self) -> Path:
        """Where its commands are."""
        return self.folder / "env" / ("Scripts" if os.name == "nt" else "bin")

    @property
    def work(self) -> Path:
        """The current folder of its commands."""
        return self.folder / "work"

    @classmethod
    def make(cls, folder: Path, wheels: list[Path]) -> Fresh:
        """Install ``wheels``, then let it see the packages that surround the test: what the wheels need, but not the
        checkout, since a path that a ``.pth`` file adds is not searched for further ``.pth`` files."""
        fresh = cls(folder)
        venv.create(folder / "env", with_pip=False, symlinks=os.name != "nt")
        fresh.work.mkdir()
        fresh.pip("install", "--no-deps", "--no-index", *map(str, wheels))
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = Path(fresh.run("python", "-c", code).strip())
        around = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (own / "around.pth").write_text("\n".join(sorted(around)) + "\n", encoding="utf-8")
        return fresh

    def pip(self, *arguments: str) -> str:
        """pip of the surrounding environment, at work on this one."""
        return self._call([sys.executable, "-m", "pip", "--python", str(self.scripts / "python"), *arguments], 0)

    def run(self, command: str, *arguments: str, code: int = 0) -> str:
        """Run one of its commands (``python``, ``vtprune``) and return what it prints, on both streams."""
        return self._call([str(self.scripts / command), *arguments], code)

    def _call(self, command: list[str], code: int) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        environment = {**kept, "COLUMNS": "200", "NO_COLOR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        done = subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True)
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


def wheels(target: Path) -> list[Path]:
    """Build the wheels of vtprune and of both packages, without network."""
    for source in (ROOT, *(EXAMPLES / package for package in PACKAGES)):
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"),
                *("--wheel-dir", str(target), str(source)),
            ],
            check=True,
            capture_output=True,
        )
    return sorted(target.glob("*.whl"))
