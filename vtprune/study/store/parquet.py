"""Results as Parquet: samples.parquet, cells.parquet and times.parquet.

    pandas.read_parquet("out/samples.parquet")
    polars.read_parquet("out/cells.parquet")

Rows come in the order of the plan, then of the task. samples.parquet and cells.parquet of the same results are the
same byte for byte, with the same version of pyarrow; times.parquet is not, as no clock is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vtprune.study.extras import require
from vtprune.study.store import files
from vtprune.study.store.table import MEANS, cell_records

if TYPE_CHECKING:
    from vtprune.study.store.folder import Store


def write_tables(store: Store) -> None:
    """Write the three files into the store's folder, each one whole or not at all; one row group a cell."""
    pa, pq = require("pyarrow", "study"), require("pyarrow.parquet", "study")
    samples, times = _sample_schema(pa), _time_schema(pa)
    cells = store.cells()
    scans = []
    with files.replacing(store.folder / "samples.parquet") as path, pq.ParquetWriter(path, samples) as writer:
        for cell in cells:
            scan = store.scan(cell)
            scans.append(scan)
            rows = [row for chunk in scan.chunks for row in chunk]
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=samples))
    with files.replacing(store.folder / "times.parquet") as path:
        pq.write_table(pa.Table.from_pylist([row for cell in cells for row in store.times(cell)], schema=times), path)
    records = cell_records(store, cells, scans)
    columns = _axis_columns(pa, [record["axes"] for record in records])
    schema = _cell_schema(pa, [pa.field(name, kind) for name, (kind, _) in columns.items()])
    for number, record in enumerate(records):
        record.update({name: values[number] for name, (_, values) in columns.items()})
        record["axes"], record["identity"] = _text(record["axes"]), _text(record["identity"])
    with files.replacing(store.folder / "cells.parquet") as path:
        pq.write_table(pa.Table.from_pylist(records, schema=schema), path)


def _sample_schema(pa: Any) -> Any:
    text, count, real, counts = pa.string(), pa.int64(), pa.float64(), pa.list_(pa.int32())
    return pa.schema(
        {
            "cell": text,
            "index": count,
            "sample": text,
            "type": text,
            "group": text,
            "answer": text,
            "references": pa.list_(text),
            "score": real,
            "prompt_tokens": count,
            "vision_tokens": count,
            "input_tokens": count,
            "mean_tokens": real,
            "mean_kv_tokens": real,
            "kv_bytes": count,
            "kv_bytes_full": count,
            "flops": count,
            "flops_full": count,
            "new_tokens": count,
            "tokens_by_layer": counts,
            "kv_by_head": pa.list_(counts),
            "kept": counts,
            "kept_share": pa.list_(real),
            "grids": pa.list_(counts),
            "crops": pa.list_(pa.list_(real)),
        }
    )


def _time_schema(pa: Any) -> Any:
    text, count, real = pa.string(), pa.int64(), pa.float64()
    return pa.schema(
        {
            "cell": text,
            "chunk": count,
            "samples": count,
            "prepare": real,
            "generate": real,
            "stages": pa.list_(real),
            "device": text,
            "dtype": text,
        }
    )


def _cell_schema(pa: Any, axes: Sequence[Any]) -> Any:
    text, count, real = pa.string(), pa.int64(), pa.float64()
    names = ("id", "name", "label", "role", "of", "model", "task", "axes")
    return pa.schema(
        [
            *(pa.field(name, text) for name in names),
            *axes,
            pa.field("downsample", real),
            pa.field("limit", count),
            pa.field("batch_size", count),
            pa.field("status", text),
            pa.field("error", text),
            pa.field("samples", count),
            pa.field("accuracy", real),
            *(pa.field(name, real) for name in MEANS),
            pa.field("recipe_hash", text),
            pa.field("identity", text),
        ]
    )


def _axis_columns(pa: Any, axes: Sequence[dict[str, Any]]) -> dict[str, tuple[Any, list[Any]]]:
    """``axis.NAME``: type and one value per cell, None for a cell without that axis."""
    columns = {}
    for name in dict.fromkeys(axis for of in axes for axis in of):
        values = [of.get(name) for of in axes]
        kinds = {type(value) for value in values if value is not None}
        if kinds <= {bool}:
            kind = pa.bool_()
        elif kinds <= {int}:
            kind = pa.int64()
        elif kinds <= {int, float}:
            kind, values = pa.float64(), [None if value is None else float(value) for value in values]
        else:
            kind = pa.string()
            values = [value if value is None or isinstance(value, str) else _text(value) for value in values]
        columns[f"axis.{name}"] = (kind, values)
    return columns


def _text(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)
