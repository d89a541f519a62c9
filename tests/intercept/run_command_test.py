#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: run_command_test.py TERSE DESCEND -- LAUNCHER...

`terse run` over `descend`, whose output says how far from the solution it ended: settings by flag, by file and by
environment reach the ranks, the job's exit code comes back, and a wrong setting ends the command before the job begins.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def terse(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | variables
    return subprocess.run([sys.argv[1], *arguments], capture_output=True, text=True, timeout=100, check=False, env=environment)


def require(condition: bool, what: object) -> None:
    if not condition:
        sys.exit(f"run_command_test.py: {what}")


def world(report: Path) -> dict:
    (row,) = json.loads(report.read_text())["communicators"]
    return row


def main() -> None:
    job = ["--", *sys.argv[sys.argv.index("--") + 1 :], "-n", "2", sys.argv[2]]
    with tempfile.TemporaryDirectory(prefix="terse_run_") as folder:
        report = Path(folder) / "report.json"
        config = Path(folder) / "terse.yaml"
        config.write_text("dense_when_faster: false\ncompressor: topk\n")

        result = terse("run", "--config", str(config), "--topk-density", "0.05", "--report", str(report), *job)
        require(result.returncode == 0, result.stderr)
        require("distance " in result.stdout, result.stdout)
        row = world(report)
        require(row["compressed_calls"] == 394 and row["group"]["tensors"][0]["codec"] == "topk", row)
        # 1,000 of 20,000 elements, some 5 bytes each.
        require(14 < row["group"]["dense_bytes"] / row["group"]["bytes_sent"] < 22, row["group"])

        why = terse("why", str(report))
        require(why.returncode == 0 and "394 calls of a rank went through Terse" in why.stdout, why.stdout + why.stderr)

        result = terse("run", "--config", str(config), "--report", str(report), *job, TERSE_COMPRESSOR="onebit")
        require(result.returncode == 0 and world(report)["group"]["tensors"][0]["codec"] == "onebit", result.stderr)

        result = terse("run", "--config", str(config), "--include", "other.*", "--report", str(report), *job)
        (tensor,) = world(report)["group"]["tensors"]
        require(tensor["codec"] == "none" and "include" in tensor["reason"], tensor)

        # What the job does with momentum of its own is for its user to say.
        dgc = ["--method", "dgc", "--dgc-density", "0.05"]
        result = terse("run", "--config", str(config), *dgc, "--dgc-job-momentum", "0.9", "--dgc-job-nesterov",
                       "--report", str(report), *job, "0.9", "nesterov")
        require(result.returncode == 0, result.stderr)
        row = world(report)
        require(row["compressed_calls"] == 394 and row["group"]["method"] == "dgc", row)
        (moving,) = [float(line.split()[1]) for line in result.stdout.splitlines() if line.startswith("moving ")]
        require(0 < moving <= 0.1, moving)
        result = terse("run", *dgc, *job)
        require(result.returncode == 4 and "--dgc-job-momentum 0.9" in result.stderr, result.stderr)
        result = terse("run", "--method", "onebit_adam", "--dgc-job-momentum", "0.9", *job)
        require(result.returncode == 4 and "method is onebit_adam" in result.stderr, result.stderr)

        # DGC begins with more than it ends with, unless somebody has said how.
        warmup = [*job[:-1], "sh", "-c", 'echo "warmup $TERSE_DGC_WARMUP_STEPS $TERSE_DGC_WARMUP_DENSITY"']
        for flags, words in ([], "warmup 64 0.0625,"), (["--dgc-warmup-steps", "0"], "warmup 0 \n"), (
            ["--dgc-warmup-density", "0.5"], "warmup 64 [0.5]\n"):
            result = terse("run", "--method", "dgc", "--dgc-job-momentum", "0.9", *flags, *warmup)
            require(result.stdout.count(words) == 2, (flags, result))

        # The observing commands observe, whatever is configured.
        result = terse("advise", "--config", str(config), "--report", str(report), *job, TERSE_COMPRESSOR="onebit")
        require(result.returncode == 0 and "compressed_calls" not in world(report), result.stderr)

        for wrong, code in (["--method", "dgc"], 4), (["--topk-density", "7"], 4), (["--topk-desnity", "1"], 2):
            result = terse("run", *wrong, *job)
            require(result.returncode == code and "distance" not in result.stdout, (wrong, result))
        failed = terse("run", *job[:-1], "sh", "-c", "exit 7")
        require(failed.returncode == 7 and "exit code 7" in failed.stderr, failed)


if __name__ == "__main__":
    main()
