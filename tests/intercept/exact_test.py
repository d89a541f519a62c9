#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: exact_test.py --mpi openmpi|mpich --library FILE --ranks N --words N -- LAUNCHER... PROGRAM

`exact` without the preload library, observed, and in every mode that compresses: its results are the same to the bit,
and the report has all its calls.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import job

ALWAYS = {"TERSE_DENSE_WHEN_FASTER": "false"}
MODES = {
    "observed": {},
    "default": {"TERSE_PRELOAD": "compress"},
    **{codec: {"TERSE_COMPRESSOR": codec, **ALWAYS} for codec in ("fp16", "bf16", "topk", "onebit", "quantize", "powersgd")},
    "dgc": {"TERSE_METHOD": "dgc", "TERSE_DGC_JOB_MOMENTUM": "0.9", **ALWAYS},
    "a thread": {"TERSE_COMPRESSOR": "topk", "TERSE_PROGRESS_THREAD": "1", **ALWAYS},
}


def run(arguments: argparse.Namespace, variables: dict[str, str]) -> dict[str, str]:
    """What the program prints, by the first word of each line."""
    done = subprocess.run(job.command(arguments, variables), capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0 or "terse:" in done.stderr:
        sys.exit(f"exact_test.py: {variables}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def main() -> None:
    arguments = job.parser(__doc__).parse_args()
    bare = run(arguments, {})
    wanted = sum(json.loads(bare["expect"]).values())
    with tempfile.TemporaryDirectory(prefix="terse_exact_") as folder:
        for mode, variables in MODES.items():
            report = Path(folder) / "report.json"
            seen = run(arguments, {"LD_PRELOAD": arguments.library, "TERSE_REPORT": str(report), **variables})
            if seen != bare:
                sys.exit(f"exact_test.py: {mode}: {seen} instead of {bare}")
            calls = json.loads(report.read_text())["intercepted"]["calls"]
            if calls != wanted:
                sys.exit(f"exact_test.py: {mode}: {calls} calls were seen, the program made {wanted}")
            report.unlink()


if __name__ == "__main__":
    main()
