"""How every figure looks, and how it is written: one palette, one shape per method, the same bytes on every run.

The first six colours are those of Okabe and Ito (2008, jfly.uni-koeln.de/color); the other four were chosen to be
far from these and from one another for people with any common colour blindness. Nothing is told by colour alone, so
each method has a marker too, and its role a line style.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from vtprune.study.figures.methods import Method

PALETTE: Final = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C00FC", "#701C00", "#A8C470", "#540054",
)  # fmt: skip
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
LINES: Final = {"recipe": "-", "baseline": ":", "control": "--", "full": "-"}
AGAIN: Final = "-."
"""Line of the recipes that have the colour of an earlier one."""
REFERENCE: Final = "#444444"
"""Colour of the unpruned model."""
HEAT: Final = "cividis"
FORMATS: Final = ("png", "svg", "pdf")
_DATELESS: Final[dict[str, dict[str, Any]]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@dataclass(frozen=True)
class Look:
    """Of one method in every figure. filled: whether its markers are (a control's are not)."""

    color: str
    marker: str
    line: str
    filled: bool = True

    @property
    def face(self) -> str:
        """Fill of the markers."""
        return self.color if self.filled else "white"


def looks(methods: Sequence[Method]) -> dict[str, Look]:
    """A look for each method by name, in the order given; a control has the colour of the method it belongs to."""
    found: dict[str, Look] = {}
    colors: dict[str, str] = {}
    others = [method for method in methods if method.role not in ("full", "control")]
    for index, method in enumerate(others):
        color = PALETTE[index % len(PALETTE)]
        colors.setdefault(method.label, color)
        line = LINES[method.role] if index < len(PALETTE) or method.role != "recipe" else AGAIN
        found[method.name] = Look(color, MARKERS[index % len(MARKERS)], line)
    for index, method in enumerate(method for method in methods if method.role == "control"):
        color = colors.get(method.of or "", PALETTE[index % len(PALETTE)])
        found[method.name] = Look(color, MARKERS[index % len(MARKERS)], LINES["control"], filled=False)
    for method in methods:
        if method.role == "full":
            found[method.name] = Look(REFERENCE, "", LINES["full"])
    return found


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """The settings of matplotlib under which figures are drawn and saved, whatever the user's own are."""
    settings = {
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 10,
        "font.size": 9,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.6,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "pdf.fonttype": 42,
        "svg.fonttype": "path",
        "svg.hashsalt": "vtprune",
        "text.parse_math": False,
    }
    with matplotlib.style.context(["default", settings]):
        yield


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches, that makes room for what stands outside its axes."""
    return Figure(figsize=(width, height), layout="constrained")


def percent(axes: Axes, which: str) -> None:
    """Write the ticks of the x or y axis as percentages of 1."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))


def legend_below(figure: Figure, entries: Mapping[str, Any]) -> None:
    """A legend under the axes, in as many columns as fit, for which the figure grows; entries: label to line or bar."""
    longest = max(map(len, entries), default=1)
    columns = max(1, min(len(entries), int(figure.get_figwidth() * 13 / (longest + 7))))
    figure.set_figheight(figure.get_figheight() + 0.19 * -(-len(entries) // columns))
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns, handlelength=3)


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, ...]:
    """Write ``name`` as PNG (150 dots per inch), SVG and PDF into the folder; equal figures give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"{name}.{suffix}" for suffix in FORMATS)
    with house_style():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # what it laid out stands; once is enough for all files
        for path, suffix in zip(paths, FORMATS, strict=True):
            figure.savefig(path, format=suffix, dpi=150, metadata=_DATELESS[suffix])
    return paths
