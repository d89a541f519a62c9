#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `terse run` does to programs that nobody changed. One of

  --hosts N    steps per second of examples/01_preload on N hosts with links of a given rate (benchmarks/testbed), dense and
               compressed in turns. `alone` is the same step without an exchange, on all hosts at once: the share of
               dense communication in the step is what is missing. The exit status is 77 where a testbed is not permitted
  --one-host   a set of programs on this machine, with and without `terse run`, in pairs: is anything slower under it?
  --accuracy   examples/01_preload trained on several seeds, each compressed run against the dense one of its seed

examples:
  benchmarks/preload.sh --hosts 4 --rate 1gbit
  benchmarks/preload.sh --one-host --pairs 20
  benchmarks/preload.sh --accuracy --seeds 8
"""
import argparse
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import accuracy_study
import links

ROOT = links.ROOT
PROGRAMS = ("terse", "train_openmpi", "plain_jobs")
# What `terse run` is given; the first two are no `terse run`.
SETTINGS = {
    "dense": None,
    "dense_ring": None,
    "topk": ["--compressor", "topk", "--topk-density", "0.01"],
    "dgc": ["--method", "dgc", "--dgc-job-momentum", "0.9"],
    "quantize": ["--compressor", "quantize"],
}
# The network that is trained on several hosts.
SIZED = "--hidden 1536"
# Of the set on one host: the program's words and how many rounds it makes in some seconds on two cores.
ONE_HOST = {
    "train": (["train_openmpi", "--steps"], 400),
    "train_fortran": (["train_fortran", "--steps"], 250),
    "mixed": (["plain_jobs", "mixed"], 10000),
    "solver": (["plain_jobs", "solver"], 20000),
    "histogram": (["plain_jobs", "histogram"], 10000),
}


class Refused(Exception):
    """`terse run` does not take a setting."""


def run(words, environment=None):
    """What a program prints."""
    words = [str(word) for word in words]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, **(environment or {})}, check=False)
    if done.returncode in (2, 4) and words[1:2] == ["run"]:
        raise Refused(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "refused")
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)} ended with status {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout


def number(pattern, output):
    """The first number that a program says in this way."""
    match = re.search(pattern, output)
    if match is None:
        raise RuntimeError(f"no '{pattern}' in\n{output}")
    return float(match[1])


def terse_run(arguments, options, job, report=None):
    """The command line of a job under `terse run`."""
    kept = ["--report", report] if report else []
    return [arguments.bin / "terse", "run", *options, *kept, "--", *job]


def ranks_of(arguments, words):
    """A job on this machine."""
    return ["mpirun.openmpi", "-n", arguments.ranks, *words]


# On several hosts.


def train_on_hosts(arguments, setting):
    """Steps per second and median step in ms of one run."""
    options = [*arguments.train, "--steps", arguments.steps if SETTINGS[setting] else arguments.dense_steps]
    program = [arguments.bin / "train_openmpi", *options]
    if SETTINGS[setting]:
        output = run(terse_run(arguments, SETTINGS[setting], ["mpirun-bed", *program]))
    else:
        output = run(["bed-mpirun", *(links.RING if setting == "dense_ring" else []), *program])
    if "parameters are equal" not in output:
        raise RuntimeError(f"{setting}: the ranks' parameters are not equal")
    return number(r"([0-9.]+) steps/s", output), number(r"median step ([0-9.]+) ms", output)


def alone_on_hosts(arguments):
    """The median step in ms, of the slowest host, of a job of one rank on each host at once: the step without exchange."""
    output = run(["bed-each", arguments.bin / "train_openmpi", *arguments.train, "--steps", arguments.dense_steps],
                 # One rank needs no network, and none is to be looked for.
                 {"OMPI_MCA_btl": "self,vader"})
    return max(float(step) for step in re.findall(r"median step ([0-9.]+) ms", output))


def measure_hosts(arguments):
    """The rows; inside a testbed."""
    measured, refused, alone = {}, {}, []
    for turn in range(arguments.runs):
        links.progress(f"run {turn + 1} of {arguments.runs}: alone ...")
        alone.append(alone_on_hosts(arguments))
        for setting in arguments.settings:
            links.progress(f"run {turn + 1} of {arguments.runs}: {setting} ...")
            try:
                measured.setdefault(setting, []).append(train_on_hosts(arguments, setting))
            except Refused as reason:
                refused[setting] = str(reason)
    links.progress("")
    common = {"rate": arguments.rate, "hosts": arguments.hosts, "train": " ".join(map(str, arguments.train))}
    rows = []
    for setting in arguments.settings:
        if setting in refused:
            rows.append({**common, "setting": setting, "refused": refused[setting]})
            continue
        runs = measured[setting]
        row = {**common, "setting": setting, "steps": arguments.steps if SETTINGS[setting] else arguments.dense_steps,
               "runs": [round(per_second, 3) for per_second, _ in runs],
               "steps_per_second": statistics.median(per_second for per_second, _ in runs),
               "step_ms": statistics.median(step for _, step in runs), "alone_ms": statistics.median(alone)}
        # Of the same turn, for what else the machine does changes.
        row["communication_share"] = statistics.median(1 - without / step for without, (_, step) in zip(alone, runs))
        for dense in ("dense", "dense_ring"):
            row[f"times_{dense}"] = None if dense not in measured else statistics.median(
                ours[0] / theirs[0] for ours, theirs in zip(runs, measured[dense]))
        rows.append(row)
    return rows


def hosts_table(rows):
    """The rows for a person."""
    first = rows[0]
    lines = [f"{first['hosts']} hosts, {first['rate']}, train {first['train']}", "",
             f"{'setting':<10}  {'steps/s':>8}  {'x dense':>8}  {'x ring':>7}  {'step ms':>8}  {'alone ms':>8}  "
             f"{'communication':>13}"]
    show = lambda ratio: "-" if ratio is None else f"{ratio:.2f}"
    for row in rows:
        if "refused" in row:
            lines.append(f"{row['setting']:<10}  refused: {row['refused']}")
            continue
        lines.append(f"{row['setting']:<10}  {row['steps_per_second']:>8.2f}  {show(row['times_dense']):>8}  "
                     f"{show(row['times_dense_ring']):>7}  {row['step_ms']:>8.2f}  {row['alone_ms']:>8.2f}  "
                     f"{row['communication_share'] * 100:>11.1f} %")
    return "\n".join(lines)


# On one host.


def work_seconds(output):
    """What a program says that its rounds took."""
    if "seconds " in output:
        return number(r"seconds ([0-9.]+)", output)
    return 1 / number(r"([0-9.]+) steps/s", output)


def pair(arguments, words, first):
    """Seconds of the rounds and of the whole command, without and with `terse run`; `first` goes first."""
    job = ranks_of(arguments, words)
    commands = {"without": job, "with": terse_run(arguments, arguments.options, job)}
    seconds = {}
    for name in (first, "with" if first == "without" else "without"):
        begin = time.monotonic()
        output = run(commands[name])
        seconds[name] = (work_seconds(output), time.monotonic() - begin)
    return seconds


def verdicts(arguments, words):
    """What became of the program's calls, in the words of the report."""
    with tempfile.TemporaryDirectory(prefix="terse-preload-") as folder:
        report = pathlib.Path(folder) / "report.json"
        run(terse_run(arguments, arguments.options, ranks_of(arguments, words), report))
        world = json.loads(report.read_text(encoding="utf-8"))["communicators"][0]
    group = world.get("group") or {}
    return {"compressed_calls": world.get("compressed_calls", 0),
            "tensors": [{key: tensor.get(key) for key in ("name", "codec", "reason")} for tensor in group.get("tensors", [])]}


def measure_one_host(arguments):
    """One row for each program."""
    rows = []
    for name in arguments.programs:
        command, rounds = ONE_HOST[name]
        words = [arguments.bin / command[0], *command[1:], max(1, round(rounds * arguments.scale))]
        pairs = []
        for turn in range(arguments.pairs):
            links.progress(f"{name}, pair {turn + 1} of {arguments.pairs} ...")
            pairs.append(pair(arguments, words, "without" if turn % 2 == 0 else "with"))
        row = {"program": name, "ranks": arguments.ranks, "options": arguments.options, "pairs": len(pairs)}
        for at, key in enumerate(("work", "whole")):
            ratios = sorted(one["with"][at] / one["without"][at] for one in pairs)
            row[f"{key}_ratio"] = statistics.median(ratios)
            row[f"{key}_ratios"] = [round(ratio, 4) for ratio in ratios]
        row["seconds"] = statistics.median(one["without"][1] for one in pairs)
        rows.append({**row, **verdicts(arguments, words)})
    links.progress("")
    return rows


def one_host_table(rows):
    """The rows for a person."""
    lines = [f"{rows[0]['ranks']} ranks on this machine, `terse run {' '.join(rows[0]['options'])}` against without; medians "
             f"of the ratios of {rows[0]['pairs']} pairs", "",
             f"{'program':<14}  {'seconds':>8}  {'rounds':>7}  {'command':>8}  {'middle half':>15}  verdict"]
    for row in rows:
        ratios = row["whole_ratios"]
        said = {f"{tensor['name']}: {tensor['reason'].split('; ')[-1]}" for tensor in row["tensors"]}
        said = said or {"no call was to be compressed"}
        lines.append(f"{row['program']:<14}  {row['seconds']:>8.2f}  {row['work_ratio']:>7.3f}  {row['whole_ratio']:>8.3f}  "
                     f"{ratios[len(ratios) // 4]:>7.3f}-{ratios[3 * len(ratios) // 4]:<7.3f}  {min(said)}")
        lines += [f"{'':<58}{text}" for text in sorted(said)[1:]]
    return "\n".join(lines)


# Accuracy.


def train_once(arguments, setting, seed):
    """The test accuracy of one training, from its file if it is there already."""
    words = [arguments.bin / "train_openmpi", "--seed", seed, "--epochs", arguments.epochs, *arguments.train]
    path = arguments.output / f"{setting}_seed{seed}.json"
    # Without where it was built.
    what = {"setting": setting, "options": SETTINGS[setting], "ranks": arguments.ranks, "train": [str(w) for w in words[1:]]}
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if {key: kept.get(key) for key in what} != what:
            raise RuntimeError(f"{path} is of other options; remove it")
        return kept["test_accuracy"]
    print(f"{setting}, seed {seed} ...", file=sys.stderr, flush=True)
    job = ranks_of(arguments, words)
    if SETTINGS[setting]:
        # Within one machine dense is the faster way, and nothing would be compressed.
        report = path.with_suffix(".report")
        output = run(terse_run(arguments, [*SETTINGS[setting], "--dense-when-faster", "false"], job, report))
        (world,) = json.loads(report.read_text(encoding="utf-8"))["communicators"]
        what["times_less"] = world["group"]["dense_bytes"] / world["group"]["bytes_sent"]
        what["compressed_calls"] = world["compressed_calls"]
    else:
        output = run(job)
    if "parameters are equal" not in output:
        raise RuntimeError(f"{setting}, seed {seed}: the ranks' parameters are not equal")
    what["test_accuracy"] = float(re.findall(r"test accuracy ([0-9.]+) %", output)[-1])
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return what["test_accuracy"]


def measure_accuracy(arguments):
    """One row for each setting; bounds are against the dense run of the same seed."""
    seeds = range(1, arguments.seeds + 1)
    results, refused = {}, {}
    # Seed by seed, so that an early stop leaves whole pairs.
    for seed in seeds:
        for setting in arguments.settings:
            if setting not in refused:
                try:
                    results[setting, seed] = train_once(arguments, setting, seed)
                except Refused as reason:
                    refused[setting] = str(reason)
    rows = []
    for setting in arguments.settings:
        if setting in refused:
            rows.append({"setting": setting, "refused": refused[setting]})
            continue
        accuracies = [results[setting, seed] for seed in seeds]
        row = {"setting": setting, "test_accuracy": accuracies, "mean": statistics.mean(accuracies)}
        if setting != "dense":
            losses = [results["dense", seed] - results[setting, seed] for seed in seeds]
            row["loss"], row["standard_error"], row["bound"] = accuracy_study.bound(losses)
        rows.append(row)
    return rows


def accuracy_table(rows, arguments):
    """The rows as Markdown."""
    seeds = range(1, arguments.seeds + 1)
    lines = [f"train --epochs {arguments.epochs} {' '.join(map(str, arguments.train))}".strip()
             + f", {arguments.ranks} ranks; test accuracy in percent, loss in points against the dense run of the same seed",
             "", "| setting | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | loss | 95 % bound |",
             "|---|" + "---|" * (len(seeds) + 3)]
    for row in rows:
        if "refused" in row:
            lines.append(f"| `{row['setting']}` | refused: {row['refused']} |")
            continue
        loss = f"{row['loss']:+.2f} ± {row['standard_error']:.2f} | {row['bound']:+.2f}" if "loss" in row else "|"
        lines.append(f"| `{row['setting']}` | " + " | ".join(f"{value:.2f}" for value in row["test_accuracy"])
                     + f" | {row['mean']:.2f} | {loss} |")
    return "\n".join(lines)


def add_arguments(parser):
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--hosts", type=int, metavar="N", help="2 to 64")
    mode.add_argument("--one-host", action="store_true")
    mode.add_argument("--accuracy", action="store_true")
    parser.add_argument("--rate", default="1gbit", metavar="R", help="--hosts: 100mbit, 1gbit, 10gbit or none (default: 1gbit)")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="--hosts: runs of each setting (default: 5)")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="--hosts: of a compressed run (default: 400)")
    parser.add_argument("--dense-steps", type=int, default=80, metavar="N", help="--hosts: of a dense run (default: 80)")
    parser.add_argument("--settings", metavar="A,B", help=f"--hosts, --accuracy: which of {', '.join(SETTINGS)} (default: dense, "
                        "dense_ring, topk, dgc; without the ring for --accuracy)")
    parser.add_argument("--train", metavar="OPTIONS",
                        help=f"--hosts, --accuracy: for the example's command line (default: {SIZED} for --hosts, where that makes "
                        "communication nine tenths of a dense step at 1 Gbit/s and more; else none)")
    parser.add_argument("--ranks", type=int, default=4, metavar="N", help="--one-host, --accuracy (default: 4)")
    parser.add_argument("--pairs", type=int, default=20, metavar="N", help="--one-host (default: 20)")
    parser.add_argument("--programs", default=",".join(ONE_HOST), metavar="A,B", help="--one-host (default: all of %(default)s)")
    parser.add_argument("--options", default="--compressor topk", metavar="OPTIONS",
                        help="--one-host: what `terse run` is given (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1, metavar="F", help="--one-host: times the rounds (default: 1)")
    parser.add_argument("--seeds", type=int, default=8, metavar="N", help="--accuracy: seeds 1 to N (default: 8)")
    parser.add_argument("--epochs", type=int, default=4, metavar="N", help="--accuracy (default: 4)")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "results" / "preload_accuracy", metavar="DIR",
                        help="--accuracy: where results are kept; what is there is not repeated (default: results/preload_accuracy)")
    parser.add_argument("--limit", type=float, default=math.inf, metavar="X",
                        help="--one-host: the highest median ratio that passes; --accuracy: the highest bound (default: none)")
    links.add_common_options(parser)


def parse(parser, argv):
    """The arguments, checked."""
    arguments = parser.parse_args(argv)
    if arguments.hosts is not None and not 2 <= arguments.hosts <= 64:
        parser.error("--hosts is 2 to 64")
    if min(arguments.runs, arguments.steps, arguments.dense_steps, arguments.pairs, arguments.epochs) < 1:
        parser.error("numbers of runs, steps, pairs and epochs are at least 1")
    if arguments.ranks < 2:
        parser.error("--ranks is at least 2")
    if not 2 <= arguments.seeds <= len(accuracy_study.T_95) + 1:
        parser.error(f"--seeds is 2 to {len(accuracy_study.T_95) + 1}")
    default = "dense,topk,dgc" if arguments.accuracy else "dense,dense_ring,topk,dgc"
    arguments.settings = (arguments.settings or default).split(",")
    for name in arguments.settings:
        if name not in SETTINGS:
            parser.error(f"no setting is called {name}; there are {', '.join(SETTINGS)}")
    if arguments.accuracy and "dense" not in arguments.settings:
        arguments.settings.insert(0, "dense")
    arguments.bin = arguments.build.resolve() / "bin"
    for program in PROGRAMS:
        if not (arguments.bin / program).exists():
            parser.error(f"{arguments.bin}/{program} is not there; build it with: cmake --preset release && "
                         "cmake --build --preset release")
    arguments.programs = [name for name in arguments.programs.split(",")
                          if name != "train_fortran" or (arguments.bin / name).exists()]
    for name in arguments.programs:
        if name not in ONE_HOST:
            parser.error(f"no program is called {name}; there are {', '.join(ONE_HOST)}")
    if arguments.train is None:
        arguments.train = "" if arguments.hosts is None else SIZED
    arguments.train = arguments.train.split()
    arguments.options = arguments.options.split()
    return arguments


def measure(arguments):
    """Rows, their table, and the highest of what --limit is for."""
    if arguments.hosts is not None:
        rows = measure_hosts(arguments)
        return rows, hosts_table(rows), -math.inf
    if arguments.one_host:
        rows = measure_one_host(arguments)
        return rows, one_host_table(rows), max(row["whole_ratio"] for row in rows)
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = measure_accuracy(arguments)
    # What could not be measured is above every limit.
    return rows, accuracy_table(rows, arguments), max(
        [row.get("bound", math.inf) for row in rows if row["setting"] != "dense"], default=-math.inf)


def main(argv):
    parser = argparse.ArgumentParser(prog="preload.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    arguments = parse(parser, argv)
    if arguments.hosts is not None and not arguments.inside:
        return links.enter_testbed(__file__, arguments, argv)
    try:
        rows, table, highest = measure(arguments)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        print(f"preload.sh: {error}", file=sys.stderr)
        return 1
    print(json.dumps(rows, indent=1) if arguments.json else table)
    if highest > arguments.limit:
        print(f"preload.sh: {highest:.3f} is above {arguments.limit:g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
