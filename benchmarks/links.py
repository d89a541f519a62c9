#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every method's whole exchange (encode, wire, decode) against the best dense all-reduces, in one run, on several
hosts with links of a given rate (benchmarks/testbed: network namespaces on this machine).

The baselines are Open MPI's ring, what Open MPI takes by default, and Gloo's ring. All of them and the methods
exchange the same number of fp32 elements, one rank on each host; times are medians over the repetitions of the
slowest rank's. The exit status is 77 where a testbed is not permitted.

example: benchmarks/links.sh --hosts 4 --rate 1gbit --elements 25.6M
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Open MPI leaves its heuristics to a table where this is set; 4 is the ring.
RING = ["--mca", "coll_tuned_use_dynamic_rules", "1", "--mca", "coll_tuned_allreduce_algorithm", "4"]
METHODS = {
    "dgc": "method=dgc,compressor=topk,dgc.density=0.001",
    "dgc_bf16": "method=dgc,compressor=topk,dgc.density=0.001,topk.values=bf16",
    "onebit": "compressor=onebit",
    "quantize4": "compressor=quantize,quantize.bits=4",
    "powersgd4": "compressor=powersgd,powersgd.rank=4",
    "topk": "compressor=topk,topk.density=0.01",
    "dgc_sparse": "method=dgc,compressor=topk,dgc.density=0.001,topk.exchange=sparse_reduce",
    "topk_sparse": "compressor=topk,topk.density=0.01,topk.exchange=sparse_reduce",
}
# The others are asked for by name.
DEFAULT_METHODS = "dgc,dgc_bf16,onebit,quantize4,powersgd4,topk"
SUFFIXES = {"": 1, "k": 1_000, "m": 1_000_000}


def elements_argument(text):
    """16000, 16K or 25.6M, as `terse bench` takes them."""
    number, suffix = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "")
    try:
        elements = round(float(number) * SUFFIXES[suffix])
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of elements; write 16000, 16K or 25.6M") from None
    if not 1 <= elements < 2**31:
        raise argparse.ArgumentTypeError("a number of elements is 1 to 2147483647")
    return elements


def progress(text):
    """What is being measured, for a person who waits."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def run(words, environment=None):
    """The JSON that a program prints."""
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, **(environment or {})}, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))} ended with status {done.returncode}:\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def baselines(build, arguments):
    """The dense all-reduces' times in ms; None for what is not built."""
    size = [arguments.elements, arguments.repeat]
    times = {}
    for key, options in (("ring_ms", RING), ("default_ms", [])):
        progress(f"dense all-reduce of Open MPI, {'ring' if options else 'default'} ...")
        times[key] = run(["bed-mpirun", *options, build / "dense_mpi", *size])["ms"]
    times["gloo_ms"] = None
    if (build / "dense_gloo").exists():
        progress("dense all-reduce of Gloo, ring ...")
        with tempfile.TemporaryDirectory(prefix="terse-gloo-") as store:
            times["gloo_ms"] = run(["bed-each", build / "dense_gloo", *size], {"BED_STORE": store})["ms"]
    return times


def measure(arguments):
    """The rows; inside a testbed."""
    build = arguments.build.resolve() / "bin"
    times = baselines(build, arguments)
    rows = []
    for name in arguments.methods:
        progress(f"{name} ...")
        bench = run(["bed-mpirun", build / "terse", "bench", "--json", "--no-dense", "--elements", arguments.elements,
                     "--repeat", arguments.repeat, "--warmup", 2, "--case", f"{name}: {METHODS[name]}"])
        result = bench["results"][0]
        rows.append({"rate": arguments.rate, "hosts": arguments.hosts, "elements": arguments.elements,
                     "transport": bench["transport"], "name": name, "exchange_ms": result["terse_ms"],
                     "encode_ms": result["encode_ms"], "decode_ms": result["decode_ms"], **times})
    progress("")
    return rows


def table(rows):
    """The rows for a person."""
    first = rows[0]
    show = lambda ms: "-" if ms is None else f"{ms:.1f}"
    lines = [f"{first['hosts']} hosts, {first['rate']}, {first['elements']:,} fp32 elements; dense, in ms: "
             f"Open MPI's ring {show(first['ring_ms'])}, its default {show(first['default_ms'])}, "
             f"Gloo's ring {show(first['gloo_ms'])}", "",
             f"{'name':<10}  {'exchange ms':>11}  {'encode ms':>9}  {'decode ms':>9}  {'x ring':>7}  {'x default':>9}"
             f"  {'x gloo':>7}"]
    for row in rows:
        times = [f"{row[key] / row['exchange_ms']:.1f}" if row[key] else "-" for key in
                 ("ring_ms", "default_ms", "gloo_ms")]
        lines.append(f"{row['name']:<10}  {row['exchange_ms']:>11.1f}  {row['encode_ms']:>9.1f}  "
                     f"{row['decode_ms']:>9.1f}  {times[0]:>7}  {times[1]:>9}  {times[2]:>7}")
    return "\n".join(lines)


def add_common_options(parser):
    """Those of every measurement that may enter a testbed."""
    parser.add_argument("--json", action="store_true", help="print the rows as JSON (docs/benchmarks.md)")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build" / "release", metavar="DIR",
                        help="what to measure (default: build/release)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)


def add_arguments(parser, methods):
    """The options of what is measured on a testbed."""
    parser.add_argument("--hosts", type=int, default=4, metavar="N", help="2 to 64 (default: 4)")
    parser.add_argument("--rate", default="1gbit", metavar="R", help="100mbit, 1gbit, 10gbit or none (default: 1gbit)")
    parser.add_argument("--elements", type=elements_argument, default=25_600_000, metavar="E",
                        help="fp32 elements of the gradient (default: 25.6M)")
    parser.add_argument("--methods", default=methods, metavar="A,B",
                        help=f"which of {', '.join(METHODS)} (default: {methods})")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="repetitions that count (default: 5)")
    add_common_options(parser)


def parse(parser, argv):
    """The arguments, checked."""
    arguments = parser.parse_args(argv)
    if not 2 <= arguments.hosts <= 64:
        parser.error("--hosts is 2 to 64")
    if arguments.repeat < 1:
        parser.error("--repeat is at least 1")
    arguments.methods = arguments.methods.split(",")
    for name in arguments.methods:
        if name not in METHODS:
            parser.error(f"no method is called {name}; there are {', '.join(METHODS)}")
    for program in ("terse", "dense_mpi"):
        if not (arguments.build / "bin" / program).exists():
            parser.error(f"{arguments.build}/bin/{program} is not there; build it with: cmake --preset release && "
                         "cmake --build --preset release")
    return arguments


def enter_testbed(script, arguments, argv):
    """Runs the script again, inside a testbed; its exit status."""
    bed = [ROOT / "benchmarks" / "testbed", "--hosts", str(arguments.hosts), "--rate", arguments.rate, "--"]
    return subprocess.run([*bed, sys.executable, script, "--inside", *argv], check=False).returncode


def main(argv):
    parser = argparse.ArgumentParser(prog="links.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, methods=DEFAULT_METHODS)
    arguments = parse(parser, argv)
    if not arguments.inside:
        return enter_testbed(__file__, arguments, argv)
    try:
        rows = measure(arguments)
    except (RuntimeError, ValueError, KeyError) as error:
        print(f"links.sh: {error}", file=sys.stderr)
        return 1
    print(json.dumps(rows, indent=1) if arguments.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
