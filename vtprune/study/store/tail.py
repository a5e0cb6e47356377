"""Following a cell's file while it grows, without reading anything twice."""

from __future__ import annotations

from pathlib import Path

from vtprune.study.store import lines


class Tail:
    """What a cell's file holds so far. samples: rows; total_score: sum of their scores; finished: it is complete."""

    def __init__(self, path: Path) -> None:
        self.samples, self.total_score, self.finished = 0, 0.0, False
        self._path, self._offset = path, 0

    @property
    def accuracy(self) -> float:
        """Mean score so far; NaN without samples."""
        return self.total_score / self.samples if self.samples else float("nan")

    def update(self) -> int:
        """Read the lines that were added since; the number of new samples. Stops for good at a line that is damaged."""
        before = self.samples
        try:
            if self.finished or self._path.stat().st_size <= self._offset:
                return 0
        except FileNotFoundError:
            return 0
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                data = lines.decode(line)
                if data is None:
                    break
                self._offset += len(line)
                rows = data.get("rows", ())
                self.samples += len(rows)
                self.total_score += sum(row["score"] for row in rows)
                self.finished |= bool(data.get("finished"))
        return self.samples - before
