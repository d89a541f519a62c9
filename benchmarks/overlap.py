#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How well an exchange overlaps kernels and wire, from traces that `terse bench` writes on a testbed of several hosts
(benchmarks/testbed: network namespaces on this machine, one rank on each).

Of each exchange: `wire` is what the bytes that a rank sent take at the line's rate; `kernels` is the processor time of all
ranks' encoding, checking, summing and decoding, divided among the processors that the ranks share; `exchange` is the time of
the slowest rank. Perfect overlap takes the larger of wire and kernels, so `ratio` is exchange / max(wire, kernels). `busy` is
the processor time of all that the ranks do in an exchange, what TCP and MPI take with their calls too, divided likewise: where it is
the exchange, nothing waits. Medians over the repetitions. The exit status is 77 where a testbed is not permitted.

example: benchmarks/overlap.sh --hosts 4 --rate 1gbit --elements 25.6M
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import links

KERNELS = {"encode", "check", "sum", "encode sum", "decode"}
WARMUP = 2
UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


def bits_per_second(rate):
    """Of a rate as tc writes it: 100mbit, 1gbit."""
    match = re.fullmatch(r"([0-9.]+)([kmg]?)bit", rate.lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{rate!r} is no rate; write 100mbit, 1gbit or 10gbit")
    return float(match[1]) * UNITS[match[2]]


def exchanges(trace):
    """Of one rank's trace, for each exchange that counts: its time, bytes, and the processor's time of kernels and of all."""
    events = trace["traceEvents"]
    found = []
    for exchange in [event for event in events if event["name"] == "exchange"][WARMUP:]:
        begin, end = exchange["ts"], exchange["ts"] + exchange["dur"]
        kernels = sum(event["tdur"] for event in events if event["name"] in KERNELS and begin <= event["ts"] < end)
        found.append({"ms": exchange["dur"] / 1e3, "bytes": exchange["args"]["bytes"], "kernels_ms": kernels / 1e3,
                      "busy_ms": exchange["tdur"] / 1e3})
    return found


def overlap(folder, rate):
    """The row of the traces in a folder."""
    ranks = [exchanges(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("rank-*.json"))]
    if not ranks or not all(ranks):
        raise RuntimeError(f"there are no whole traces in {folder}")
    processors = min(len(ranks), len(os.sched_getaffinity(0)))
    rows = [{"exchange_ms": max(rank["ms"] for rank in step),
             "wire_ms": max(rank["bytes"] for rank in step) * 8e3 / bits_per_second(rate),
             "kernels_ms": sum(rank["kernels_ms"] for rank in step) / processors,
             "busy_ms": sum(rank["busy_ms"] for rank in step) / processors} for step in zip(*ranks)]
    row = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    row["ratio"] = statistics.median(row["exchange_ms"] / max(row["wire_ms"], row["kernels_ms"]) for row in rows)
    return row


def measure(arguments):
    """The rows; inside a testbed."""
    rows = []
    for name in arguments.methods:
        links.progress(f"{name} ...")
        with tempfile.TemporaryDirectory(prefix="terse-trace-") as temporary:
            folder = arguments.traces / name if arguments.traces else pathlib.Path(temporary)
            links.run(["bed-mpirun", arguments.build.resolve() / "bin" / "terse", "bench", "--json", "--no-dense",
                       "--elements", arguments.elements, "--repeat", arguments.repeat, "--warmup", WARMUP,
                       "--trace", folder, "--case", f"{name}: {links.METHODS[name]}"])
            rows.append({"rate": arguments.rate, "hosts": arguments.hosts, "elements": arguments.elements,
                         "name": name, **overlap(folder, arguments.rate)})
    links.progress("")
    return rows


def main(argv):
    parser = argparse.ArgumentParser(prog="overlap.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    links.add_arguments(parser, methods="onebit,quantize4")
    parser.add_argument("--traces", type=pathlib.Path, metavar="FOLDER",
                        help="keep the traces, in FOLDER/METHOD/rank-N.json (chrome://tracing and Perfetto show them)")
    arguments = links.parse(parser, argv)
    try:
        bits_per_second(arguments.rate)
    except argparse.ArgumentTypeError as error:
        parser.error(f"--rate: {error}")
    if not arguments.inside:
        return links.enter_testbed(__file__, arguments, argv)
    try:
        rows = measure(arguments)
    except (RuntimeError, ValueError, KeyError, OSError, subprocess.SubprocessError) as error:
        print(f"overlap.sh: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    print(f"{arguments.hosts} hosts, {arguments.rate}, {arguments.elements:,} fp32 elements\n\n"
          f"{'name':<10}  {'exchange ms':>11}  {'wire ms':>8}  {'kernels ms':>10}  {'busy ms':>7}  {'ratio':>6}")
    for row in rows:
        print(f"{row['name']:<10}  {row['exchange_ms']:>11.1f}  {row['wire_ms']:>8.1f}  {row['kernels_ms']:>10.1f}  "
              f"{row['busy_ms']:>7.1f}  {row['ratio']:>6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
