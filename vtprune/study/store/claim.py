"""A process's hold on one cell: the right to add to it."""

from __future__ import annotations

import io
import json
import traceback
from types import TracebackType
from typing import TYPE_CHECKING

from vtprune.study.cell import Cell
from vtprune.study.rows import SampleRow, TimeRow
from vtprune.study.store import files, lines
from vtprune.study.store.errors import DamagedError, RowError

if TYPE_CHECKING:
    from vtprune.study.store.folder import Store


class Claim:
    """Made by `Store.claim`; a context manager that gives the cell free at the end.

    chunks_done, samples_done: what the cell holds. finished: whether it is complete. repaired: what was found and put
    right, one sentence each.
    """

    def __init__(self, store: Store, cell: Cell, handle: int) -> None:
        self.cell = cell
        self.chunks_done = self.samples_done = 0
        self.finished = False
        self.repaired: list[str] = []
        self._store = store
        self._rows, self._times = store.cell_file(cell), store.times_file(cell)
        self._handle: int | None = handle

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let others claim the cell; harmless if called twice."""
        if self._handle is not None:
            files.unlock(self._handle)
            self._handle = None

    def resume(self) -> None:
        """Read what is there and put right what a kill leaves behind: a last line that is incomplete is moved to
        ``ID.jsonl.damaged``, times without rows go.

        Raises DamagedError, and changes nothing, if something is wrong before the last line.
        """
        found = lines.scan(self._rows)
        if found.damage is not None:
            raise DamagedError(
                f"{found.damage}. The store only ever adds lines, so the file was changed by something else or the "
                f"disk is failing. Nothing was deleted; move the file away to compute the cell again"
            )
        if found.torn:
            aside = self._rows.with_name(self._rows.name + ".damaged")
            files.cut(self._rows, found.size, aside)
            self.repaired.append(
                f"{self._rows.name}: the last line was incomplete (a process was killed or a disk was full while it "
                f"was written); moved to {aside.name}, {len(found.chunks)} chunks before it are kept"
            )
        self.chunks_done, self.samples_done, self.finished = len(found.chunks), found.samples, found.finished
        self._repair_times()

    def _repair_times(self) -> None:
        """Keep one line of times for each chunk of rows; times come first, so at most the last one is too many."""
        content = self._times.read_bytes() if self._times.exists() else b""
        kept: dict[int, bytes] = {}
        for line in io.BytesIO(content):
            data = lines.decode(line)
            if data is not None and data["chunk"] < self.chunks_done:
                kept[data["chunk"]] = line
        repaired = b"".join(kept[chunk] for chunk in sorted(kept))
        if repaired != content:
            files.write(self._times, repaired)
        if len(kept) < self.chunks_done:
            self.repaired.append(f"{self._times.name}: {self.chunks_done - len(kept)} chunks have no times")

    def append(self, rows: list[SampleRow], time: TimeRow) -> None:
        """Add a chunk: on disk when this returns.

        Raises RowError if it is not the next chunk of this cell or holds what cannot be stored, and StoreError if it
        cannot be written, in which case the file is as it was.
        """
        self._check_held()
        line = lines.encode_rows(self.cell.id, self.chunks_done, self.samples_done, rows)
        files.append(self._times, lines.encode_time(self.cell.id, self.chunks_done, len(rows), time), durable=False)
        files.append(self._rows, line)
        self.chunks_done += 1
        self.samples_done += len(rows)

    def finish(self) -> None:
        """Mark the cell as complete and forget an earlier failure; raises RowError if it has no samples."""
        self._check_held()
        if not self.samples_done:
            raise RowError(f"{self.cell.name} has no samples; task {self.cell.task['name']!r} gave none")
        files.append(self._rows, lines.encode({"finished": True, "samples": self.samples_done}))
        self.finished = True
        self._store.error_file(self.cell).unlink(missing_ok=True)

    def fail(self, error: BaseException) -> None:
        """Record why the cell could not be completed; its chunks are kept, and the next run tries again."""
        failure = {
            "cell": self.cell.name,
            "type": type(error).__name__,
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
            "chunk": self.chunks_done,
            "attempts": self._store.attempts(self.cell) + 1,
        }
        files.write(self._store.error_file(self.cell), json_bytes(failure))

    def _check_held(self) -> None:
        if self._handle is None or self.finished:
            raise RowError(f"{self.cell.name} is finished or released; nothing can be added to it")


def json_bytes(data: object) -> bytes:
    """Indented JSON with a line feed at the end; lone surrogates are escaped, so any text can be stored."""
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
