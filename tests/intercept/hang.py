#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: hang.py --mpi openmpi|mpich --library FILE --ranks N --mode MODE --after S --words N -- LAUNCHER... PROGRAM

Runs `hang MODE` under the preload library and holds what stderr says against what the ranks do. A job that waits for
ever is ended once it was said why, or fails after LIMIT.

  late      rank 1 comes seconds later: it is named with its last call, the job goes on and ends well, and its report
            has the wait; with --after 0, nothing is said
  cycle     ranks wait for each other in two communicators
  forms     rank 1 made its call nonblocking, the others not
  wait      the others wait for a nonblocking call that rank 1 has not made
  persistent  the same of one that it has not started
  compressed  the same of a call that is compressed, in the middle of a step
  finalize  rank 1 is in MPI_Finalize
  killed    rank 1 was killed
  stopped   rank 1 was stopped, and does not answer
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import job

LIMIT = 90

# What must be said, each in one line.
WANTED = {
    "cycle": [
        r"rank 0 .* in call 2 of first: .*Not come: ranks? 1.*call 1 of first.* in call 2 of second, .*to which rank 0 has not come",
        r"rank 1 .* in call 2 of second: .*Not come: ranks? 0.*call 1 of second.* in call 2 of first, .*to which rank 1 has not come",
    ],
    "forms": [r"rank 0 .* in call 4 of MPI_COMM_WORLD: MPI_Allreduce of 1 MPI_DOUBLE \(MPI_MAX\)\. Come with another call: "
              r"rank 1 .*: call 4 of MPI_COMM_WORLD, MPI_Iallreduce of 1 MPI_DOUBLE \(MPI_MAX\), started"],
    "wait": [r"rank 0 .* in MPI_Wait for call 5 of MPI_COMM_WORLD: MPI_Iallreduce of 1 MPI_DOUBLE \(MPI_MIN\)\. Not come: rank 1 "
             r".*call 4 of MPI_COMM_WORLD, MPI_Iallreduce of 1 MPI_DOUBLE \(MPI_SUM\)"],
    "persistent": [r"rank 0 .* in MPI_Wait for call 5 of MPI_COMM_WORLD: .*Not come: rank 1 .*call 4 of MPI_COMM_WORLD"],
    "compressed": [r"rank 0 .* in call 23 of MPI_COMM_WORLD: MPI_Allreduce of 8192 MPI_FLOAT \(MPI_SUM\)\. Not come: rank 1 "
                   r".*call 22 of MPI_COMM_WORLD, MPI_Allreduce of 8192 MPI_FLOAT \(MPI_SUM\), left"],
    "finalize": [r"rank 0 .* in call 4 of MPI_COMM_WORLD: .*Not come: rank 1 .*call 3 of MPI_COMM_WORLD.*it has waited .* in MPI_Finalize",
                 r"rank 1 .* has waited .* in MPI_Finalize\. Not come: .*in call 4 of MPI_COMM_WORLD"],
    "killed": [r"rank 0 .* in call 4 of MPI_COMM_WORLD: .*Not heard of: rank 1 .*does not answer, its connection is refused"],
    "stopped": [r"rank 0 .* in call 4 of MPI_COMM_WORLD: .*Not heard of: rank 1 .*does not answer \(its process may be gone or stopped\)"],
}


def fail(text: str) -> None:
    sys.exit(f"hang.py: {text}")


def command(arguments: argparse.Namespace, report: Path) -> list[str]:
    variables = {"LD_PRELOAD": arguments.library, "TERSE_REPORT": str(report), "TERSE_HANG_AFTER_S": arguments.after}
    if arguments.mode == "compressed":
        variables |= {"TERSE_PRELOAD": "compress", "TERSE_COMPRESSOR": "topk", "TERSE_DENSE_WHEN_FASTER": "false"}
    # The others live on.
    options = ["--enable-recovery"] if arguments.mode == "killed" else []
    return [*job.command(arguments, variables, *options), arguments.mode]


def check_late(process: subprocess.Popen, arguments: argparse.Namespace, report: Path) -> None:
    output, errors = process.communicate(timeout=LIMIT)
    said = [line for line in errors.splitlines() if "terse: " in line]
    if process.returncode != 0 or "expect " not in output:
        fail(f"exit code {process.returncode}\n{output}\n{errors}")
    hangs = json.loads(report.read_text()).get("hangs")
    if arguments.after == "0":
        if said or hangs is not None:
            fail(f"it is turned off, and says: {errors}\n{hangs}")
        return
    first = re.search(r"terse: rank 0 \(.*, pid \d+\) has waited .* s in call 4 of MPI_COMM_WORLD: MPI_Allreduce of 1000 MPI_FLOAT "
                      r"\(MPI_SUM\)\. Not come: rank 1 \(.*, pid \d+\): its last call there is call 3 of MPI_COMM_WORLD, "
                      r"MPI_Allreduce of 10 MPI_FLOAT \(MPI_SUM\), left .* s ago; it is in no all-reduce now", errors)
    if first is None or not any("rank 0 goes on: call 4 of MPI_COMM_WORLD is over" in line for line in said):
        fail(f"what was said: {errors}")
    if any(not re.match(r".*terse: rank 0 ", line) for line in said):
        fail(f"others than the lowest waiting rank spoke: {errors}")
    (event,) = hangs["events"]
    if hangs["count"] != 1 or hangs["longest_s"] <= 0 or not event["over"] or event["call"] != "call 4 of MPI_COMM_WORLD":
        fail(f"the report: {hangs}")
    if event["rank"] != 0 or "Not come: rank 1" not in event["message"]:
        fail(f"the report: {hangs}")


def check_forever(process: subprocess.Popen, mode: str) -> None:
    """The job is ended when all was said, or at the limit."""
    timer = threading.Timer(LIMIT, end, [process])
    timer.start()
    wanted = list(WANTED[mode])
    lines = []
    for line in process.stderr:
        lines.append(line)
        wanted = [pattern for pattern in wanted if not re.search("terse: " + pattern, line)]
        if not wanted:
            break
    timer.cancel()
    said = "".join(lines)
    if mode == "stopped":  # signals but this one wait until it goes on
        for pid in re.findall(r"Not heard of: rank 1 \([^)]*, pid (\d+)\)", said):
            os.kill(int(pid), signal.SIGKILL)
    end(process)
    if wanted:
        fail(f"nobody said {wanted}, but:\n{said}")


def end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--mode", required=True)
    parser.add_argument("--after", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="terse_hang_") as folder:
        report = Path(folder) / "report.json"
        with subprocess.Popen(command(arguments, report), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            if arguments.mode == "late":
                check_late(process, arguments, report)
            else:
                check_forever(process, arguments.mode)


if __name__ == "__main__":
    main()
