"""What the page says, as plain data for the template."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import yaml

from vtprune.study.footnotes import verdict
from vtprune.study.report.parts import Part
from vtprune.study.report.pictures import Picture
from vtprune.study.results import Results
from vtprune.study.tables import Sheet

TESTBED: Final = "testbed/"
TESTBED_NOTE: Final = (
    "The testbed's models are miniatures: a testbed of mechanisms, not a predictor of how methods rank on a 7B model."
)
PLAN_ONLY: Final = ("refused", "merged", "notes")
"""Keys that a plan adds to the study file."""
NOTHING: Final = "-"
LARGEST_SVG: Final = 150_000
"""Bytes."""
Format = Callable[[Any], str]


@dataclass(frozen=True)
class Table:
    """text: columns that hold words, aligned to the left."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Section:
    """One model on one task. sheets: accuracy tables. pictures: by heading."""

    part: Part
    sheets: tuple[Sheet, ...]
    pictures: Mapping[str, Sequence[Picture]]

    @property
    def has_answers(self) -> bool:
        """Whether there is anything to draw."""
        return not self.part.samples.empty

    @property
    def costs(self) -> Table:
        """What each variant kept and cost."""
        return table(
            self.part.accuracy,
            {
                "variant": ("name", str),
                "accuracy": ("accuracy", share),
                "of the unpruned model's": ("relative", share),
                "tokens into the LLM": ("retained_input", share),
                "tokens, mean over layers": ("retained_mean", share),
                "tokens in the cache": ("retained_kv", share),
                "KV bytes": ("retained_kv_bytes", share),
                "FLOPs": ("retained_flops", share),
                "s per sample": ("seconds", number),
                "samples": ("n_samples", str),
                "seeds": ("n_seeds", str),
                "SD over seeds (points)": ("seed_std", points),
            },
        )

    @property
    def comparisons(self) -> Table:
        """Paired tests against the unpruned model and the named reference."""
        return self._comparisons(own=False)

    @property
    def own_controls(self) -> Table:
        """Paired tests of recipes against their own controls."""
        return self._comparisons(own=True)

    def _comparisons(self, own: bool) -> Table:
        rows = self.part.comparisons
        rows = rows[rows["own"] == own]
        rows = rows.assign(against=[row.reference or row.against for row in rows.itertuples()])
        rows = rows.assign(verdict=[verdict(row) for row in rows.to_dict("records")])
        columns: dict[str, tuple[str, Format]] = {
            "variant": ("name", str),
            "against": ("against", str),
            "finding": ("verdict", str),
            "difference (points)": ("difference", signed_points),
            "from": ("ci_low", signed_points),
            "to": ("ci_high", signed_points),
            "p, adjusted": ("p_adjusted", number),
            "p": ("p", number),
            "resolvable (points)": ("resolvable", resolved),
            "tokens": ("retained_mean", share),
            "its tokens": ("reference_retained_mean", share),
            "FLOPs": ("retained_flops", share),
            "its FLOPs": ("reference_retained_flops", share),
            "samples": ("n_samples", str),
            "test": ("test", str),
            "note": ("note", str),
        }
        words = ("variant", "against", "finding", "test", "note")
        if own:
            columns = {name: columns[name] for name in columns if name not in ("p", "FLOPs", "its FLOPs", "test")}
        return table(rows, columns, frozenset(place for place, name in enumerate(columns) if name in words))

    @property
    def types(self) -> Table:
        """Accuracy and interval of each variant for each question type."""
        rows = self.part.types[self.part.types["kind"] == "type"]
        names, kinds = list(dict.fromkeys(rows["name"])), list(dict.fromkeys(rows["type"]))
        entries = {(row.name_, row.type): row for row in rows.rename(columns={"name": "name_"}).itertuples()}
        lines = tuple((name, *(_interval(entries.get((name, kind))) for kind in kinds)) for name in names)
        counts = {kind: int(rows.loc[rows["type"] == kind, "n_samples"].max()) for kind in kinds}
        return Table(("variant", *(f"{kind} (n={counts[kind]})" for kind in kinds)), lines)

    @property
    def variance(self) -> Table:
        """Shares of the variance between cells."""
        return table(
            self.part.variance,
            {
                "term": ("term", str),
                "share of variance": ("share", share),
                "from": ("ci_low", share),
                "to": ("ci_high", share),
                "p, adjusted": ("p_adjusted", number),
                "df": ("df", str),
            },
        )


def table(
    frame: pd.DataFrame, columns: Mapping[str, tuple[str, Format]], text: frozenset[int] = frozenset({0})
) -> Table:
    """Columns of a frame under other names, formatted."""
    rows = [
        tuple(
            "" if value is None else format_(value) for value, (_, format_) in zip(row, columns.values(), strict=True)
        )
        for row in zip(*(frame[name] for name, _ in columns.values()), strict=True)
    ]
    return Table(tuple(columns), tuple(rows), text)


def share(value: float) -> str:
    """``81.2 %``."""
    return NOTHING if pd.isna(value) else f"{100 * value:.1f} %"


def points(value: float) -> str:
    """``3.4``: percentage points."""
    return NOTHING if pd.isna(value) else f"{100 * value:.1f}"


def resolved(value: float) -> str:
    """As `points`; in words where no difference can be found."""
    return "none" if value > 1 else points(value)


def signed_points(value: float) -> str:
    """``+3.4``."""
    return NOTHING if pd.isna(value) else f"{100 * value:+.1f}"


def number(value: float) -> str:
    """Three digits."""
    return NOTHING if pd.isna(value) else f"{value:.3g}" if value == 0 or abs(value) >= 1e-4 else "< 0.0001"


def data_uri(picture: Picture) -> str:
    """The picture as part of a page: as SVG, which stays sharp, unless that is large."""
    small = picture.svg.stat().st_size <= LARGEST_SVG
    path, kind = (picture.svg, "svg+xml") if small else (picture.png, "png")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def facts(results: Results) -> list[tuple[str, str]]:
    """What was run, as name and value."""
    study, cells = results.study, results.cells
    counts = Counter(cells["status"])
    status = ", ".join(f"{counts[name]} {name}" for name in ("done", "partial", "failed", "missing") if counts[name])
    versions = _distinct(_identity(cells, "versions"))
    models = _distinct(_models(results))
    found = [
        ("Cells", f"{len(cells)}: {status}"),
        ("Models", "; ".join(dict.fromkeys(cells["model"]))),
        ("Tasks", "; ".join(dict.fromkeys(cells["task"]))),
        ("Answers", f"{len(results.samples)}"),
        ("Samples per cell", "all" if study.get("limit") is None else f"at most {study['limit']}"),
        ("Seeds", ", ".join(map(str, study.get("seeds", ())))),
        ("Batch size", str(study.get("batch_size", ""))),
        ("Weights, dtype and device", "; ".join(models)),
        ("Versions", "; ".join(versions)),
        ("Made with", "; ".join(plugins(results))),
    ]
    return [(name, value) for name, value in found if value]


def plugins(results: Results) -> list[str]:
    """The distributions beside vtprune that made the results, with version and components."""
    return [str(maker) for maker in results.made_with if maker.is_third_party]


def _identity(cells: pd.DataFrame, key: str) -> list[Any]:
    return [identity.get(key) for identity in cells.get("identity", ()) if isinstance(identity, Mapping)]


def _models(results: Results) -> list[Any]:
    """The identity of each cell's model, with the dtype that really ran where ``auto`` was asked for."""
    models = {
        cell: identity["model"]
        for cell, identity in results.cells.get("identity", pd.Series(dtype=object)).items()
        if isinstance(identity, Mapping) and isinstance(identity.get("model"), Mapping)
    }
    ran: dict[str, set[str]] = {}
    for time in results.times.dropna(subset=["dtype"]).itertuples():
        if time.cell in models:
            ran.setdefault(str(models[time.cell]), set()).add(str(time.dtype))
    return [
        {**model, "dtype": _dtype(ran.get(str(model), set()))} if model.get("dtype") == "auto" else model
        for model in models.values()
    ]


def _dtype(ran: set[str]) -> str:
    return f"{' and '.join(sorted(ran))} (asked for: auto)" if ran else "auto (what that was is not recorded)"


def _distinct(values: list[Any]) -> list[str]:
    found = [value for value in values if isinstance(value, Mapping)]
    texts = [
        ", ".join(f"{key} {_brief(entry)}" for key, entry in value.items() if entry is not None) for value in found
    ]
    return list(dict.fromkeys(texts))


def _brief(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def unfinished(cells: pd.DataFrame) -> str:
    """A sentence for a study with cells that are not done, or ""."""
    counts = Counter(cells["status"])
    if counts["done"] == len(cells):
        return ""
    words = {"failed": "failed", "partial": "have some of their samples only", "missing": "have not started"}
    said = ", ".join(f"{counts[status]} {text}" for status, text in words.items() if counts[status])
    return (
        f"These are partial results: of {len(cells)} cells {counts['done']} are done, {said}. Numbers below may "
        "change, and variants may have answered different samples."
    )


def study_text(study: Mapping[str, Any]) -> str:
    """The study file, as YAML, with every default filled in."""
    data = json.loads(json.dumps({key: value for key, value in study.items() if key not in PLAN_ONLY}, default=str))
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100))


def _interval(row: Any) -> str:
    if row is None or pd.isna(row.accuracy):
        return NOTHING
    return f"{100 * row.accuracy:.1f} ({100 * row.ci_low:.0f} to {100 * row.ci_high:.0f})"
