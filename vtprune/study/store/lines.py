"""One chunk as one line of JSON, and reading a file of them.

A line of rows is ``{"crc32":"0123abcd","chunk":0,"rows":[...]}``, the last line of a finished cell
``{"crc32":"0123abcd","finished":true,"samples":96}``. The CRC-32 is that of the line without its CRC entry, so that a
line that was cut off or altered is noticed. Keys have a fixed order and nothing depends on the clock: equal rows give
equal bytes.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtprune.study.rows import SAMPLE_COLUMNS, TIME_COLUMNS, SampleRow, TimeRow
from vtprune.study.store.errors import RowError

_CRC = b'{"crc32":"%08x",'
_CRC_LENGTH = len(_CRC % 0)
_LAST_LINE = 120  # bytes; no finished line is longer


def encode(data: Mapping[str, Any]) -> bytes:
    """One line, with its CRC-32 and its line feed; ValueError or TypeError for what JSON or UTF-8 cannot hold."""
    body = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
    return _CRC % zlib.crc32(body) + body[1:] + b"\n"


def decode(line: bytes) -> dict[str, Any] | None:
    """The inverse of `encode`, or None for anything that `encode` did not write. Takes the line with its line feed."""
    body = b"{" + line[_CRC_LENGTH:-1]
    if not line.endswith(b"\n") or line[:_CRC_LENGTH] != _CRC % zlib.crc32(body):
        return None
    data = json.loads(body)
    return data if isinstance(data, dict) else None


def encode_rows(cell: str, chunk: int, first: int, rows: list[SampleRow]) -> bytes:
    """The line of a chunk whose first row has index ``first``; raises RowError naming the sample and the fault."""
    if not rows:
        raise RowError(f"chunk {chunk} of cell {cell} has no rows; a chunk is one batch of at least one sample")
    for number, row in enumerate(rows, first):
        if set(row) != set(SAMPLE_COLUMNS):
            odd = sorted(set(row) ^ set(SAMPLE_COLUMNS))
            raise RowError(f"row {number} of cell {cell}: columns missing or unknown: {', '.join(odd)}")
        if row["cell"] != cell or row["index"] != number:
            raise RowError(
                f"row {number} of cell {cell} says cell {row['cell']}, index {row['index']}; rows come in the order of "
                f"the task, without gaps"
            )
    try:
        return encode({"chunk": chunk, "rows": [_ordered(row, SAMPLE_COLUMNS) for row in rows]})
    except (ValueError, TypeError) as error:
        raise RowError(f"chunk {chunk} of cell {cell} cannot be stored: {_fault(rows) or error}") from error


def encode_time(cell: str, chunk: int, samples: int, time: TimeRow) -> bytes:
    """The line of a chunk's times; raises RowError if they are those of another chunk."""
    if set(time) != set(TIME_COLUMNS) or (time["cell"], time["chunk"], time["samples"]) != (cell, chunk, samples):
        raise RowError(f"times {dict(time)} do not belong to chunk {chunk} of cell {cell} with {samples} samples")
    return encode(_ordered(time, TIME_COLUMNS))


def _ordered(row: Any, columns: tuple[str, ...]) -> dict[str, Any]:
    return {column: row[column] for column in columns}


def _fault(rows: list[SampleRow]) -> str | None:
    for row in rows:
        for column, value in row.items():
            try:
                encode({column: value})
            except (ValueError, TypeError) as error:
                return f"sample {row['sample']!r}, {column} is {value!r} ({error})"
    return None


@dataclass(frozen=True)
class Scan:
    """What a cell's file holds.

    chunks: the rows of each complete chunk. finished: whether the last line says so. size: bytes of the valid lines.
    torn: whether one incomplete or altered line follows them, which is what a kill or a power cut leaves behind.
    damage: what is wrong in the middle of the file, naming file and line, or None; nothing after it was read.
    """

    chunks: list[list[SampleRow]]
    finished: bool
    size: int
    torn: bool
    damage: str | None

    @property
    def samples(self) -> int:
        """Number of rows."""
        return sum(map(len, self.chunks))


def scan(path: Path) -> Scan:
    """Read a cell's file as far as it is valid; an absent file has no chunk."""
    content = path.read_bytes() if path.exists() else b""
    lines = io.BytesIO(content).readlines()
    chunks: list[list[SampleRow]] = []
    finished, size = False, 0
    for number, line in enumerate(lines, 1):
        data = decode(line)
        fault = None
        if data is None:
            fault = "is incomplete or was altered"
        elif finished:
            fault = "comes after the line that ends the cell"
        elif data.get("finished") is True:
            finished = data["samples"] == sum(map(len, chunks))
            fault = None if finished else f"counts {data['samples']} samples, the lines before it hold another number"
        elif data.get("chunk") != len(chunks):
            fault = f"holds chunk {data.get('chunk')}, expected chunk {len(chunks)}"
        else:
            chunks.append(data["rows"])
        if fault is not None:
            torn = number == len(lines) and data is None
            damage = None if torn else f"{path}, line {number}: {fault}"
            return Scan(chunks, finished, size, torn, damage)
        size += len(line)
    return Scan(chunks, finished, size, False, None)


def is_finished(path: Path) -> bool:
    """Whether the last line of a cell's file ends it; reads no more than that line."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _LAST_LINE))
            end = file.read()
    except FileNotFoundError:
        return False
    line = end[end.rfind(b"\n", 0, -1) + 1 :]
    return bool((decode(line) or {}).get("finished"))
