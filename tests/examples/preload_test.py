#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: preload_test.py TERSE PROGRAM -- LAUNCHER...

A few steps of an example that knows MPI alone, on two ranks: as it is, and under `terse run`. Both times it learns and its
ranks end with the same parameters; under `terse run` its gradients are compressed from the fourth step on.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SKIPPED = 77
STEPS = 60
HIDDEN = 128
DATA = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
# Weights and biases of a layer are one call.
TENSORS = sorted([(784 + 1) * HIDDEN, (HIDDEN + 1) * HIDDEN])
LAST_LAYER = (HIDDEN + 1) * 10


def require(condition: bool, what: object) -> None:
    if not condition:
        sys.exit(f"preload_test.py: {what}")


def run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=os.environ)
    require(result.returncode == 0, f"{command} ended with status {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result.stdout


def check_output(output: str) -> None:
    require("2 ranks" in output, output)
    require("the ranks' parameters are equal" in output, output)
    losses = [float(loss) for loss in re.findall(r"loss ([0-9.]+)", output)]
    # train.cc says the mean over the steps, then the test images' loss; train.f90 that of single steps.
    require(len(losses) >= 2 and losses[-1] < losses[0] and losses[-1] < 1.9, f"the loss did not fall:\n{output}")


def check_report(report: dict[str, Any]) -> None:
    (world,) = report["communicators"]
    require("error" not in world and world["period"] == 5, world)
    calls = len(TENSORS) * (STEPS - 3)
    require(world["compressed_calls"] == calls, f"{world['compressed_calls']} calls were compressed, expected {calls}")
    group = world["group"]
    require(group["bytes_sent"] * 10 < group["dense_bytes"], f"{group['bytes_sent']} of {group['dense_bytes']} bytes")
    require(sorted(tensor["elements"] for tensor in group["tensors"]) == TENSORS, group["tensors"])
    require(all(tensor["codec"] == "topk" for tensor in group["tensors"]), group["tensors"])
    (last,) = [site for site in world["sites"] if site["position"] is not None and site["count"] == LAST_LAYER]
    require(not last["compress"] and "min_elements" in last["reason"], last)


def main() -> None:
    terse, program = sys.argv[1], sys.argv[2]
    if "fortran" not in program and not DATA.exists():
        print("skipped: the package dataset-fashion-mnist is not installed")
        sys.exit(SKIPPED)
    launcher = sys.argv[sys.argv.index("--") + 1 :]
    options = ["--steps", str(STEPS), "--hidden", str(HIDDEN), "--learning-rate", "0.02"]
    job = [*launcher, "-n", "2", program, *options]
    check_output(run(job))
    with tempfile.TemporaryDirectory(prefix="terse_preload_") as folder:
        report = Path(folder) / "report.json"
        # Within one machine dense is faster; here it is to be compressed all the same.
        check_output(run([terse, "run", "--compressor", "topk", "--topk-density", "0.05", "--dense-when-faster", "false",
                          "--report", str(report), "--", *job]))
        check_report(json.loads(report.read_text(encoding="utf-8")))

    require("usage" in run([program, "--help"]), "--help")
    wrong = subprocess.run([program, "--steps", "none"], capture_output=True, text=True, timeout=100, check=False)
    require(wrong.returncode == 2 and "--steps" in wrong.stderr, wrong)


if __name__ == "__main__":
    main()
