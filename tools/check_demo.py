"""Compare the table of a study with what it was when somebody last looked at it.

    python tools/check_demo.py runs/quickstart            exit with status 1 if a number left its tolerance
    python tools/check_demo.py runs/quickstart --write    accept the table as it is

The expected file holds the accuracy of every variant with a tolerance, and the comparisons that must be significant.
Rounding differs between processors and libraries, so that a few answers may change; `TOLERANCE` is what that may do,
far below the differences that the demonstration shows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from vtprune.study.results import Results
from vtprune.study.statistics import Summary, summarise

EXPECTED = Path(__file__).with_suffix(".json")
TOLERANCE = 0.02


def facts(summary: Summary) -> dict[str, Any]:
    """Accuracy of each variant, and which of them differ significantly from what."""
    complete = summary.accuracy[summary.accuracy["status"] == "complete"]
    differ = summary.comparisons[summary.comparisons["significant"]]
    return {
        "accuracy": {row["name"]: round(row["accuracy"], 4) for row in complete.to_dict("records")},
        "significant": sorted(
            [row["name"], row["reference"], "better" if row["difference"] > 0 else "worse"]
            for row in differ.to_dict("records")
        ),
    }


def problems(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What is missing, out of tolerance, or no longer significant; one sentence each."""
    said = []
    for name, accuracy in expected["accuracy"].items():
        seen = found["accuracy"].get(name)
        if seen is None:
            said.append(f"{name}: missing or not complete")
        elif abs(seen - accuracy) > expected["tolerance"]:
            said.append(f"{name}: accuracy {seen:.3f}, expected {accuracy:.3f} ± {expected['tolerance']}")
    said += [f"{name}: new, expected no such variant" for name in found["accuracy"] if name not in expected["accuracy"]]
    for comparison in expected["must_differ"]:
        if comparison not in found["significant"]:
            name, reference, how = comparison
            said.append(f"{name} is not significantly {how} than {reference} any more")
    return said


def main() -> None:
    """Read, compare or write, and say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true", help="accept the table as it is")
    options = parser.parse_args()
    summary = summarise(Results.load(options.folder))
    found = facts(summary)
    if options.write:
        # Only clear differences must stay: a p value close to the limit may cross it by a few answers.
        clear = summary.comparisons[summary.comparisons["p_adjusted"] < 0.001]
        names = {(row["name"], row["reference"]) for row in clear.to_dict("records")}
        must = [entry for entry in found["significant"] if (entry[0], entry[1]) in names]
        content = {"tolerance": TOLERANCE, "accuracy": found["accuracy"], "must_differ": must}
        EXPECTED.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {EXPECTED}: {len(found['accuracy'])} variants, {len(must)} differences")
        return
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    if said := problems(found, expected):
        print(f"the table of {options.folder} is not the expected one ({EXPECTED.name}):")
        print("\n".join(f"  - {line}" for line in said))
        raise SystemExit(1)
    print(
        f"{len(expected['accuracy'])} accuracies within {expected['tolerance']}; all {len(expected['must_differ'])} "
        f"clear differences are there"
    )


if __name__ == "__main__":
    main()
