"""A run report as tables, for terminals, plain text and notebooks."""

from __future__ import annotations

import io
from collections import defaultdict
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from vtprune.core.errors import UnknownNameError
from vtprune.core.recipe import build_name
from vtprune.core.registry import STAGE_KINDS

if TYPE_CHECKING:
    from vtprune.core.recipe import Stage
    from vtprune.core.report import Event, Report

WIDTH = 110
_HTML = '<pre style="font-family:monospace;line-height:1.3;white-space:pre;overflow-x:auto">{code}</pre>'


def render(report: Report) -> RenderableType:
    """The report as a rich renderable: one line per stage, its layers where it has several, and the totals."""
    parts: list[RenderableType] = [_title(report), _stages(report)]
    for stage in range(len(report.recipe.stages)):
        line = layer_line(report.stage_events(stage))
        if line:
            parts.append(Text(f"stage {stage} kept, by layer: {line}"))
    return Group(*parts, _totals(report))


def as_text(report: Report) -> str:
    """The report as plain text, 110 columns wide."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, legacy_windows=False)
    console.print(render(report))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def as_html(report: Report) -> str:
    """The report as an HTML fragment with inline styles."""
    console = Console(file=io.StringIO(), width=WIDTH, record=True, legacy_windows=False)
    console.print(render(report))
    return console.export_html(inline_styles=True, code_format=_HTML)


def _title(report: Report) -> Text:
    samples = len(report.layouts)
    return Text.assemble(
        (report.recipe.name, "bold"),
        f" ({_hash(report)}) on {report.model}: {report.depth} layers, {report.kv_heads} KV heads, "
        f"{samples} sample{'s' if samples != 1 else ''}, {report.new_tokens} decoding steps",
    )


def _hash(report: Report) -> str:
    """The recipe's hash, cut short; there is none while a component is only defined in a notebook."""
    try:
        return report.recipe.hash[:12]
    except UnknownNameError:
        return "no hash: a component is not registered"


def _stages(report: Report) -> Table:
    several = any(_several(report.stage_events(stage)) for stage in range(len(report.recipe.stages)))
    table = Table(caption="tokens: mean (least to most) per sample, layer and KV head" if several else None)
    table.caption_justify = "left"
    table.add_column("stage", justify="right")
    table.add_column("site", overflow="fold")
    table.add_column("scorer > allocator > selector > reducer", overflow="fold")
    table.add_column("requested", justify="right")
    table.add_column("realised", justify="right")
    table.add_column("ms", justify="right")
    for index, stage in enumerate(report.recipe.stages):
        events = report.stage_events(index)
        requested = spread([count for event in events for count in event.requested])
        realised = spread([count for event in events for count in event.realised])
        milliseconds = f"{report.stage_seconds[index] * 1e3:.1f}"
        table.add_row(str(index), str(stage.site), method(stage), requested, realised, milliseconds)
    return table


def method(stage: Stage) -> str:
    """``attention > uniform > top_k > drop``; a stage without a scorer starts with its allocator."""
    return " > ".join(build_name(kind, part) for kind in STAGE_KINDS if (part := getattr(stage, kind)) is not None)


def spread(counts: list[int]) -> str:
    """``64``, or ``52.5 (40 to 65)`` where counts differ, or ``not yet`` where there are none."""
    if not counts:
        return "not yet"
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{sum(counts) / len(counts):.1f} ({low} to {high})"


def layer_line(events: list[Event]) -> str:
    """``2-9: 288, 10-31: 144``: tokens kept at each layer, averaged over samples and KV heads; empty for one layer."""
    by_layer: dict[int, list[int]] = defaultdict(list)
    for event in events:
        by_layer[event.layer].extend(event.realised)
    if len(by_layer) < 2:
        return ""
    means = sorted((layer, f"{sum(counts) / len(counts):.1f}".removesuffix(".0")) for layer, counts in by_layer.items())
    runs = []
    for _, run in groupby(enumerate(means), key=lambda item: (item[1][0] - item[0], item[1][1])):
        members = [entry for _, entry in run]
        first, last, mean = members[0][0], members[-1][0], members[0][1]
        runs.append(f"{first}: {mean}" if first == last else f"{first}-{last}: {mean}")
    return ", ".join(runs)


def _several(events: list[Event]) -> bool:
    return len({count for event in events for count in (*event.requested, *event.realised)}) > 1


def _totals(report: Report) -> Table:
    table = Table()
    for column in ("total", "unpruned", "pruned", "left"):
        table.add_column(column, justify="left" if column == "total" else "right")
    prompt = report.tokens_in_prompt
    table.add_row("vision tokens at the LLM input", *_row(prompt, report.tokens_at_llm_input, "g"))
    table.add_row("vision tokens, mean over layers", *_row(prompt, report.mean_tokens_over_layers, ".1f"))
    table.add_row(
        "vision tokens in the cache, mean over layers", *_row(prompt, report.mean_kv_tokens_over_layers, ".1f")
    )
    table.add_row("KV cache", *_row(report.kv_bytes_full, report.kv_bytes, "B"))
    table.add_row("FLOPs", *_row(report.flops_full, report.flops, "F"))
    return table


def _row(full: float, pruned: float, style: str) -> tuple[str, str, str]:
    share = f"{pruned / full:.1%}" if full else "-"
    return quantity(full, style), quantity(pruned, style), share


def quantity(value: float, style: str) -> str:
    """A number for people: ``B`` bytes in binary units, ``F`` FLOPs in decimal ones, else a format specification."""
    if style == "B":
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))
    if style == "F":
        return _scaled(value, 1000, ("", "K", "M", "G", "T", "P", "E")).rstrip()
    return format(value, style)


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    power = 0
    while value >= base and power < len(units) - 1:
        value /= base
        power += 1
    number = f"{value:.0f}" if power == 0 else f"{value:.2f}"
    return f"{number} {units[power]}"
