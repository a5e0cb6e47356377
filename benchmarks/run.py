"""Run the benchmarks and write ``benchmarks/results/<name>-<device>.json``.

python -m benchmarks.run
python -m benchmarks.run speed --threads 1
python -m benchmarks.run --device cuda --dtype bfloat16      (untested)
"""

from __future__ import annotations

import os
import sys

from benchmarks import cli, compaction, probe, speed, studies
from benchmarks.common import RESULTS, arguments

BENCHMARKS = {"cli": cli, "compaction": compaction, "probe": probe, "speed": speed, "studies": studies}

# glibc hands large blocks back to the system and faults them in again, which costs a prefill up to a tenth of its time
# or nothing, by the luck of what lies at the top of the heap. Here freed memory is kept, for both sides alike.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}

if __name__ == "__main__":
    if not KEEP_MEMORY.keys() & os.environ.keys():
        os.execve(
            sys.executable, [sys.executable, "-m", "benchmarks.run", *sys.argv[1:]], {**os.environ, **KEEP_MEMORY}
        )
    parser = arguments(__doc__ or "")
    parser.add_argument("names", nargs="*", help=f"which ones: {', '.join(BENCHMARKS)}; all by default")
    parser.set_defaults(results=RESULTS)
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    for name in options.names or BENCHMARKS:
        print(f"-- {name}", flush=True)
        BENCHMARKS[name].main(options)
