#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: exact_test.py --mpi openmpi|mpich --library FILE --ranks N --words N -- LAUNCHER... PROGRAM

`exact` without the preload library, observed, and in every mode that compresses: its results are the same to the bit,
and the report has all its calls.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

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
    launcher, program = arguments.command[: arguments.words], arguments.command[arguments.words :]
    forwarded = []
    for name, value in variables.items():
        forwarded += ["-x", f"{name}={value}"] if arguments.mpi == "openmpi" else ["-genv", name, value]
    done = subprocess.run([*launcher, *forwarded, "-n", str(arguments.ranks), *program], env=dict(os.environ),
                          capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0 or "terse:" in done.stderr:
        sys.exit(f"exact_test.py: {variables}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mpi", required=True)
    parser.add_argument("--library", required=True)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--words", type=int, required=True, help="how many words of the command are the launcher")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
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
