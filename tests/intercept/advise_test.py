#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: advise_test.py TERSE LIFE -- LAUNCHER...

`terse advise` over `life training`: under the launcher, and the program by itself.
"""

import json
import subprocess
import sys


def terse(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.argv[1], "advise", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def require(condition: bool, what: object) -> None:
    if not condition:
        sys.exit(f"advise_test.py: {what}")


def main() -> None:
    life = sys.argv[2]
    job = [*sys.argv[sys.argv.index("--") + 1 :], "-n", "2", life, "training"]
    result = terse("--gbit", "2", "--latency-us", "10", "--set", "compressor=onebit", "--json", "--", *job)
    require(result.returncode == 0, result.stderr)
    # The program's own output comes first.
    advice = json.loads(result.stdout[result.stdout.index("{\n") :])
    require([row["count"] for row in advice["compress"]] == [70000, 5000], advice["compress"])
    require([row["tensor"] for row in advice["compress"]] == ["MPI_FLOAT.70000.0", "MPI_FLOAT.5000.0"], advice["compress"])
    for row in advice["compress"]:
        require(row["dense_bytes"] == 4 * row["count"] and row["terse_bytes"] == row["count"] / 8, row)
        require(abs(row["dense_ms"] - (4 * row["count"] * 8 / 2e6 + 2 * 0.010)) < 1e-9, row)
    require(advice["period"]["dense_bytes"] == 4 * 75000 and advice["network"] == {"gbit": 2, "latency_us": 10}, advice)
    require(advice["report"]["intercepted"]["calls"] == 2 * 20 * 5, advice["report"]["intercepted"])

    words = terse("--set", "min_elements=60000", "--", *job)
    require(words.returncode == 0, words.stderr)
    for part in ("MPI_FLOAT.70000.0, at 0: 70000 MPI_FLOAT MPI_SUM", "fewer than min_elements (60000)", "MPI_INT stays exact", "averages of weights"):
        require(part in words.stdout, f"'{part}' is not in\n{words.stdout}")

    chosen = terse("--set", "include=MPI_FLOAT.*", "--set", "exclude=MPI_FLOAT.70000.?", "--", *job)
    require(chosen.returncode == 0, chosen.stderr)
    require('MPI_FLOAT.70000.0: excluded by "MPI_FLOAT.70000.?"' in chosen.stdout and "MPI_FLOAT.5000.0, at 1: " in chosen.stdout, chosen.stdout)
    require("MPI_FLOAT.70000.0, at 0" not in chosen.stdout, chosen.stdout)

    alone = terse("--", life, "training")
    require(alone.returncode == 0, alone.stderr)
    require("the rank is alone" in alone.stdout and "Nothing would be compressed" in alone.stdout, alone.stdout)

    failed = terse("--", *job[:-1], "abort")
    require(failed.returncode == 1, failed)


if __name__ == "__main__":
    main()
