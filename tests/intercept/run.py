#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: run.py --mpi openmpi|mpich [--library FILE] [--folder FOLDER] --ranks N [--binding B] [--check NAME]
              [--set NAME=VALUE]... -- LAUNCHER... PROGRAM...

Runs a job under the preload library (--library), over a replacement folder (--folder), or both, and holds the report
against what the program says it called: a line
'expect {"blocking": n, "nonblocking": n, "persistent": n}'. A program that was not intercepted fails.

  counts      the report has exactly these calls, from that binding (the default)
  training    counts, and the period, the verdicts and the reasons of `life training`
  loops       counts, and communicators that came and went are told apart and counted together
  alone       MPI_Init was not seen: each rank writes a report of its own
  unfinished  alone, of a program without MPI_Finalize, which some launchers call an error
  abort       the job ends with an error and does not hang; there need be no report
  refused     the library is for the other MPI: the job ends with a message that says so
  silent      without TERSE_REPORT: nothing is written anywhere
  compressed  counts, and `descend` had its gradients compressed and came to the solution
  named       counts, and `named` had all its gradients compressed, under their names, and came to the solution
  overlapped  counts, and `overlap` had all its gradients compressed and came to the solution
  blocking    the same of its blocking gradients alone, with the reason for the others
  fortran     counts, and Fortran's `descend` had its three gradients compressed and came to the solution
  momentum    compressed, and of the job, which has momentum, moved what the last step sent and no more
  exact       counts, and nothing was compressed, for the reason that stderr says
  unseen      the program called, and no library of ours saw it: there is no report
  handle      counts, and the calls of `handle` were compressed
  failed      counts, and one exchange failed, for the reason that stderr says
  early       counts, and so were those of `early`, which all ranks found to be able to
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import job

TIMEOUT = 100


def fail(text: str) -> None:
    sys.exit(f"run.py: {text}")


def require(condition: bool, text: str) -> None:
    if not condition:
        fail(text)


def launch(arguments: argparse.Namespace, report: Path) -> subprocess.CompletedProcess:
    variables = {}
    if arguments.library:
        variables["LD_PRELOAD"] = arguments.library
    if arguments.folder:
        variables["LD_LIBRARY_PATH"] = arguments.folder
    if arguments.check != "silent":
        variables["TERSE_REPORT"] = str(report)
    variables |= dict(setting.split("=", 1) for setting in arguments.set)
    return subprocess.run(job.command(arguments, variables), capture_output=True, text=True, timeout=TIMEOUT, check=False)


def expected(output: str) -> dict[str, int]:
    lines = [line for line in output.splitlines() if line.startswith("expect ")]
    require(len(lines) == 1, f"the program did not say what it called:\n{output}")
    return json.loads(lines[0].removeprefix("expect "))


# What the program printed behind a word.
def figure(output: str, word: str) -> float:
    (value,) = [float(line.split()[1]) for line in output.splitlines() if line.startswith(f"{word} ")]
    return value


def check_solution(output: str, most: float) -> None:
    distance = figure(output, "distance")
    require(distance < most, f"the job ended {distance} away from the solution")


def counted(report: dict[str, Any], binding: str) -> dict[str, int]:
    forms = {"blocking": 0, "nonblocking": 0, "persistent": 0}
    for communicator in report["communicators"]:
        for site in communicator["sites"]:
            if site["binding"] == binding:
                forms[site["form"]] += site["calls"] * communicator["ranks"]
    return forms


def check_counts(arguments: argparse.Namespace, output: str, report: dict[str, Any]) -> None:
    wanted = expected(output)
    found = counted(report, arguments.binding)
    require(sum(wanted.values()) > 0 and found == wanted, f"intercepted {found}, the program called {wanted}")
    require(report["ranks"] == list(range(arguments.ranks)), f"reported by ranks {report['ranks']}")
    require(report["world_size"] == arguments.ranks and report["abi"] == arguments.mpi, "facts of the job")
    everything = report["intercepted"]
    require(everything[arguments.binding] == sum(wanted.values()), f"all calls: {everything}")


def check_training(arguments: argparse.Namespace, output: str, report: dict[str, Any]) -> None:
    check_counts(arguments, output, report)
    (world,) = report["communicators"]
    require(world["name"] == "MPI_COMM_WORLD" and world["period"] == 5 and world["deviations"] == 0, f"{world}")
    sites = world["sites"][:5]
    require([site["count"] for site in sites] == [70000, 5000, 100, 1, 1], "counts of the period")
    require([site["position"] for site in sites] == [0, 1, 2, 3, 4], "positions")
    require([site["calls"] for site in sites] == [17] * 5, "20 steps, of which 3 were learned from")
    require([site["compress"] for site in sites] == [True, True, False, False, False], "what would be compressed")
    require("min_elements (4096)" in sites[2]["reason"], sites[2]["reason"])
    require("double precision" in sites[3]["reason"], sites[3]["reason"])
    require("MPI_INT" in sites[4]["reason"], sites[4]["reason"])
    before = [site for site in world["sites"] if site["position"] is None]
    require(all(site["calls"] == 3 and not site["compress"] for site in before), "calls before the period was learned")
    require(all(site["mean_us"] > 0 for site in world["sites"]), "times")
    require(len(report["warnings"]) == 1 and "averages of weights" in report["warnings"][0], "the warning")


def check_loops(arguments: argparse.Namespace, output: str, report: dict[str, Any]) -> None:
    check_counts(arguments, output, report)
    in_loop = [row for row in report["communicators"] if row["instances"] >= 30]
    # The duplicates, and each half of the split.
    require(len(in_loop) >= 2, f"communicators made in a loop: {[row['instances'] for row in report['communicators']]}")
    require(any(row["name"] == "made by group" for row in report["communicators"]), "the name of a communicator")
    inter = [row for row in report["communicators"] if row["inter"]]
    require(bool(inter), "no intercommunicator")
    for row in inter:
        require(all("intercommunicator" in site["reason"] for site in row["sites"]), "intercommunicators pass through")
    reasons = {site["reason"] for row in report["communicators"] for site in row["sites"]}
    for word in ("derived type", "operation of the program's own", "MPI_MAX is no sum", "alone in its communicator"):
        require(any(word in reason for reason in reasons), f"no call stays exact because of: {word}")


def check_compressed(arguments: argparse.Namespace, output: str, report: dict[str, Any]) -> None:
    check_counts(arguments, output, report)
    (world,) = report["communicators"]
    require("error" not in world, f"{world.get('error')}")
    # Of 400 steps, three before the period was known and three after the validation in the middle.
    require(world["compressed_calls"] == 394, f"{world['compressed_calls']} calls were compressed")
    group = world["group"]
    # Those three went through the group, too, exactly; but not under dgc, which only counts them.
    through = 394 if group["method"] == "dgc" else 397
    require(group["steps"] == through and group["calls"] == through, f"steps {group['steps']}, calls {group['calls']}")
    require(group["bytes_sent"] * 4 < group["dense_bytes"], "bytes")
    (tensor,) = group["tensors"]
    require(tensor["codec"] != "none" and tensor["elements"] == 20000, f"{tensor}")
    check_solution(output, 0.02)


def check_named(arguments: argparse.Namespace, output: str, report: dict[str, Any]) -> None:
    check_counts(arguments, output, report)
    (world,) = report["communicators"]
    require("error" not in world and world["compressed_calls"] == 600, f"{world}")
    tensors = {tensor["name"]: tensor["calls"] for tensor in world["group"]["tensors"]}
    require(tensors == {"first": 200, "second": 200, "third": 200}, f"{tensors}")
    check_solution(output, 0.02)


def check_overlap(arguments: argparse.Namespace, output: str, report: dict[str, Any], nonblocking: bool) -> None:
    check_counts(arguments, output, report)
    (world,) = report["communicators"]
    require("error" not in world, f"{world.get('error')}")
    # Three equal calls at the start look like a period of one.
    require(world["period"] == 5 and world["deviations"] == 1, f"{world['deviations']} deviations from {world['period']}")
    least = 240 * (4 if nonblocking else 1)
    require(world["compressed_calls"] >= least, f"{world['compressed_calls']} calls were compressed, fewer than {least}")
    sites = [site for site in world["sites"] if site["position"] is not None]
    for site in sites:
        gradient = site["type"] == "MPI_FLOAT"
        require(site["compress"] == (gradient and (nonblocking or site["form"] == "blocking")), f"{site}")
        if gradient and not site["compress"]:
            require("MPI_THREAD_MULTIPLE" in site["reason"], site["reason"])
    check_solution(output, 0.03)


def check_fortran(arguments: argparse.Namespace, output: str, report: dict[str, Any]) -> None:
    check_counts(arguments, output, report)
    (world,) = report["communicators"]
    require("error" not in world and world["period"] == 3 and world["deviations"] <= 1, f"{world}")
    # Of 120 steps, three before the period was known and some more where equal calls look like a shorter one.
    require(330 <= world["compressed_calls"] <= 351, f"{world['compressed_calls']} calls were compressed")
    check_solution(output, 0.03)


# The job's own momentum would move on what earlier steps sent: with 0.9 nearly everything.
def check_momentum(arguments: argparse.Namespace, output: str, report: dict[str, Any]) -> None:
    check_compressed(arguments, output, report)
    most = 0.05 * arguments.ranks
    moving = figure(output, "moving")
    require(0 < moving <= most, f"{moving} of the parameters moved, at most {most} were sent")


def check_handle(arguments: argparse.Namespace, output: str, report: dict[str, Any]) -> None:
    check_counts(arguments, output, report)
    (world,) = report["communicators"]
    require("error" not in world, f"{world.get('error')}")
    # Of 40 steps, three before the period was known.
    require(world["compressed_calls"] == 37, f"{world['compressed_calls']} calls were compressed")


def check_early(arguments: argparse.Namespace, output: str, report: dict[str, Any]) -> None:
    check_counts(arguments, output, report)
    (world,) = report["communicators"]
    require("error" not in world, f"{world.get('error')}")
    # Of 30 steps, three before the period was known.
    require(world["compressed_calls"] == 27, f"{world['compressed_calls']} calls were compressed")


def check_exact(arguments: argparse.Namespace, output: str, report: dict[str, Any]) -> None:
    check_counts(arguments, output, report)
    require(all("compressed_calls" not in row for row in report["communicators"]), "something was compressed")
    require("distance 0.0000" in output and figure(output, "moving") > 0.9, output)


def check_alone(arguments: argparse.Namespace, output: str, folder: Path) -> None:
    wanted = expected(output)
    total = 0
    for rank in range(arguments.ranks):
        path = folder / ("report.json" if rank == 0 else f"report.json.{rank}")
        require(path.exists(), f"rank {rank} wrote no report")
        report = json.loads(path.read_text())
        require(report["ranks"] == [rank], f"{path} is of ranks {report['ranks']}")
        total += sum(counted(report, arguments.binding).values())
    require(total == sum(wanted.values()), f"intercepted {total}, the program called {wanted}")


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--folder", help="a replacement folder")
    parser.add_argument("--binding", default="C")
    parser.add_argument("--check", default="counts")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="for the job's environment")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="terse_intercept_") as name:
        folder = Path(name)
        result = launch(arguments, folder / "report.json")
        if arguments.check in ("abort", "refused"):
            require(result.returncode != 0, "the job ended well")
            if arguments.check == "refused":
                require("whose handles this library cannot read" in result.stderr, result.stderr)
            return
        unfinished = arguments.check == "unfinished"
        require(result.returncode == 0 or unfinished, f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}")
        if arguments.check == "exact":
            require("terse: nothing is compressed: " in result.stderr, result.stderr)
        elif arguments.check == "failed":
            require(result.stderr.count("terse: an all-reduce of 8192 elements failed: ranks disagree") == arguments.ranks, result.stderr)
        else:
            require("terse:" not in result.stderr, result.stderr)
        if arguments.check in ("silent", "unseen"):
            require(sum(expected(result.stdout).values()) > 0, "the program called nothing")
            require(not list(folder.iterdir()), "something was written")
        elif unfinished or arguments.check == "alone":
            check_alone(arguments, result.stdout, folder)
        else:
            require([path.name for path in folder.iterdir()] == ["report.json"], f"files: {list(folder.iterdir())}")
            report = json.loads((folder / "report.json").read_text())
            checks = {"counts": check_counts, "failed": check_counts, "training": check_training, "loops": check_loops,
                      "compressed": check_compressed, "momentum": check_momentum, "exact": check_exact, "handle": check_handle, "early": check_early,
                      "named": check_named, "fortran": check_fortran,
                      "overlapped": lambda *given: check_overlap(*given, nonblocking=True),
                      "blocking": lambda *given: check_overlap(*given, nonblocking=False)}
            checks[arguments.check](arguments, result.stdout, report)


if __name__ == "__main__":
    main()
