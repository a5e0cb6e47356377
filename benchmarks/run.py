"""Run the benchmarks of the engine and write ``benchmarks/results/<name>-<device>.json``.

python -m benchmarks.run
python -m benchmarks.run speed --threads 1
python -m benchmarks.run --device cuda --dtype bfloat16      (untested)
"""

from __future__ import annotations

from benchmarks import compaction, probe, speed
from benchmarks.common import RESULTS, arguments

BENCHMARKS = {"compaction": compaction, "probe": probe, "speed": speed}

if __name__ == "__main__":
    parser = arguments(__doc__ or "")
    parser.add_argument("names", nargs="*", help=f"which ones: {', '.join(BENCHMARKS)}; all by default")
    parser.set_defaults(results=RESULTS)
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    for name in options.names or BENCHMARKS:
        print(f"-- {name}", flush=True)
        BENCHMARKS[name].main(options)
