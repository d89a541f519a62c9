#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns the results of several fashion_mnist runs into a table, report.json and report.html.

Reads the files that `fashion_mnist --json` wrote and checks that they can be compared: the same network,
seed and number of steps, and on all ranks of each run the same parameters at the end.
"""
import argparse
import json
import math
import pathlib
import sys

import report_html

# The quickstart's runs in the order of the report, each with the dense run it is held against.
COUNTERPARTS = {"sgd": "sgd", "topk": "sgd", "dgc": "sgd", "quantize": "sgd",
                "adam": "adam", "onebit_adam": "adam"}
NUMBERS = ("seed", "steps", "test_accuracy", "bytes_sent_per_step", "dense_bytes_per_step",
           "ratio_compressed_tensors", "ratio_whole_model", "encode_ms", "exchange_ms", "decode_ms", "step_ms",
           "parameters", "ranks", "batch_per_rank")
TEXTS = ("name", "method", "compressor", "network")
PHASE_NUMBERS = ("from_step", "bytes_sent_per_step", "ratio_compressed_tensors", "ratio_whole_model",
                 "encode_ms", "decode_ms")

# What benchmarks/links.sh writes of a method; a baseline may be null.
MEASURED_TEXTS = ("name", "rate", "transport")
MEASURED_NUMBERS = ("hosts", "elements", "exchange_ms", "encode_ms", "decode_ms")
BASELINES = (("Open MPI's ring", "ring_ms"), ("Open MPI's default", "default_ms"), ("Gloo's ring", "gloo_ms"))

# A TCP stream over Ethernet carries this part of the line rate (1500-byte frames).
WIRE_EFFICIENCY = 0.957
LINKS = (("100 Mbit/s", 100e6), ("1 Gbit/s", 1e9), ("10 Gbit/s", 10e9))


class ReportError(Exception):
    """The runs cannot be reported; the message says which file or run and why."""


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def require(condition, where, what):
    if not condition:
        raise ReportError(f"{where}: {what}")


def check_run(run, where):
    """Everything that is used below is there and has its type; raises ReportError otherwise."""
    require(isinstance(run, dict), where, "is not a JSON object")
    for key in TEXTS:
        require(isinstance(run.get(key), str), where, f"'{key}' is missing or no text")
    for key in NUMBERS:
        require(is_number(run.get(key)), where, f"'{key}' is missing or no number")
    require(run["name"] in COUNTERPARTS, where, f"no run is called '{run['name']}'")
    hashes = run.get("parameter_hash")
    require(isinstance(hashes, list) and len(hashes) == run["ranks"], where,
            "'parameter_hash' does not have one entry a rank")
    require(len(set(map(str, hashes))) == 1, where,
            f"the ranks of '{run['name']}' ended with different parameters: {', '.join(map(str, hashes))}")
    phase = run.get("after_warmup")
    require(isinstance(phase, dict) and all(is_number(phase.get(key)) for key in PHASE_NUMBERS), where,
            "'after_warmup' is missing or incomplete")
    curve = run.get("curve")
    require(isinstance(curve, list) and curve, where, "'curve' is missing or empty")
    for point in curve:
        require(isinstance(point, dict) and all(is_number(point.get(key)) for key in ("step", "bytes", "loss")),
                where, "a point of 'curve' lacks step, bytes or loss")
        require("accuracy" not in point or is_number(point["accuracy"]), where,
                "an 'accuracy' in 'curve' is no number")


def load_runs(paths):
    """The runs of the files, in the report's order."""
    runs = {}
    for path in paths:
        try:
            run = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReportError(f"{path}: cannot be read: {error}") from error
        check_run(run, path)
        require(run["name"] not in runs, path, f"is a second run called '{run['name']}'")
        runs[run["name"]] = run
    require(runs, "no runs", "name at least one file")
    first = next(iter(runs.values()))
    for run in runs.values():
        for key in ("network", "seed", "steps", "ranks", "batch_per_rank", "parameters"):
            require(run[key] == first[key], run["name"],
                    f"has {key} {run[key]}, but {first['name']} has {first[key]}: they cannot be compared")
        counterpart = COUNTERPARTS[run["name"]]
        require(counterpart in runs, run["name"], f"its dense counterpart '{counterpart}' is missing")
    return [runs[name] for name in COUNTERPARTS if name in runs]


def load_links(path):
    """The rows that benchmarks/links.sh has measured; none without a file."""
    if path is None:
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: cannot be read: {error}") from error
    require(isinstance(rows, list) and rows, path, "is no array of rows")
    for row in rows:
        require(isinstance(row, dict), path, "holds something that is no row")
        for key in MEASURED_TEXTS:
            require(isinstance(row.get(key), str), path, f"'{key}' of a row is missing or no text")
        for key in MEASURED_NUMBERS:
            require(is_number(row.get(key)), path, f"'{key}' of '{row['name']}' is missing or no number")
        for _, key in BASELINES:
            require(row.get(key) is None or is_number(row[key]), path, f"'{key}' of '{row['name']}' is no number")
    return rows


def differences(runs):
    """Accuracy of each run minus that of its dense counterpart, in points; 0 for the dense runs."""
    accuracy = {run["name"]: run["test_accuracy"] for run in runs}
    return {name: value - accuracy[COUNTERPARTS[name]] for name, value in accuracy.items()}


def has_warmup(run):
    """Whether the run compressed less at first than it did later on."""
    return 0 < run["after_warmup"]["from_step"] < run["steps"]


def calculate_links(runs):
    """What each run's bytes would take on slower links: rows of {label, bytes, codec_ms, ms, faster}.

    A calculation, not a measurement: the time on the wire is bytes / (0.957 x line rate), and to it come the
    measured times of encoding and decoding. `faster` compares with the dense ring's bytes at the same rate.
    """
    rows = []
    for run in runs:
        if run["name"] == COUNTERPARTS[run["name"]]:
            continue
        phases = [(run["name"], run)]
        if has_warmup(run):
            phases.append((f"{run['name']}, after its warm-up", run["after_warmup"]))
        for label, phase in phases:
            codec_ms = phase["encode_ms"] + phase["decode_ms"]
            ms, faster = [], []
            for _, rate in LINKS:
                def wire_ms(sent, rate=rate):
                    return 1000 * 8 * sent / (WIRE_EFFICIENCY * rate)
                ms.append(wire_ms(phase["bytes_sent_per_step"]) + codec_ms)
                faster.append(wire_ms(run["dense_bytes_per_step"]) / ms[-1] if ms[-1] > 0 else 1.0)
            rows.append({"label": label, "bytes": phase["bytes_sent_per_step"], "codec_ms": codec_ms, "ms": ms,
                         "faster": faster})
    dense_bytes = runs[0]["dense_bytes_per_step"]
    dense = {"label": "dense ring", "bytes": dense_bytes, "codec_ms": 0.0,
             "ms": [1000 * 8 * dense_bytes / (WIRE_EFFICIENCY * rate) for _, rate in LINKS],
             "faster": [1.0] * len(LINKS)}
    return [dense] + rows


def plain_words(runs):
    """What the numbers say, in sentences; nothing here is more than they say."""
    by_name = {run["name"]: run for run in runs}
    words = [f"All {runs[0]['ranks']} ranks of each run ended with the same parameters, bit by bit."]
    slower, faster = [], []
    for run in runs:
        dense = COUNTERPARTS[run["name"]]
        if run["name"] != dense:
            (slower if run["step_ms"] > by_name[dense]["step_ms"] else faster).append(run["name"])
    words.append("On one machine without a slow network dense is, as a rule, faster: the ranks share memory, and "
                 "compression only adds its own work.")
    if slower:
        words.append(f"Here dense took less time a step than {join_words(slower)}.")
    if faster:
        words.append(f"Here {join_words(faster)} took no longer a step than dense; where ranks share cores, that "
                     "comes and goes with the machine's load.")
    words.append("Compression pays where the network is slow: the calculation for slower links shows what the same "
                 "bytes and the codec times measured here come to.")
    words.append("One seed proves little: another order of summation alone moves the accuracy by 0.2 to 0.3 points.")
    return words


def join_words(words):
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def format_bytes(count):
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            break
        count /= 1000
    else:
        unit = "TB"
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"


def format_ratio(ratio):
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.1f}x"


def format_table(header, rows):
    widths = [max(len(row[i]) for row in [header] + rows) for i in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths]] + rows:
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def result_rows(runs):
    """Header and rows of the main table, as text."""
    header = ["run", "accuracy %", "to dense", "bytes/step", "tensors", "steady", "model", "encode ms",
              "exchange ms", "decode ms", "step ms"]
    delta = differences(runs)
    rows = []
    for run in runs:
        dense = run["name"] == COUNTERPARTS[run["name"]]
        steady = (run["after_warmup"] if has_warmup(run) else run)["ratio_compressed_tensors"]
        rows.append([run["name"], f"{run['test_accuracy']:.2f}", "-" if dense else f"{delta[run['name']]:+.2f}",
                     format_bytes(run["bytes_sent_per_step"]), format_ratio(run["ratio_compressed_tensors"]),
                     format_ratio(steady), format_ratio(run["ratio_whole_model"]), f"{run['encode_ms']:.2f}", f"{run['exchange_ms']:.2f}",
                     f"{run['decode_ms']:.2f}", f"{run['step_ms']:.1f}"])
    return header, rows


def warmup_sentences(runs):
    sentences = []
    for run in runs:
        phase = run["after_warmup"]
        if has_warmup(run):
            sentences.append(f"{run['name']} compresses fully from step {phase['from_step']} on; from there it sends "
                             f"{format_bytes(phase['bytes_sent_per_step'])} a step "
                             f"({format_ratio(phase['ratio_compressed_tensors'])} less for the compressed tensors, "
                             f"{format_ratio(phase['ratio_whole_model'])} for the model).")
    return sentences


def link_rows(runs):
    header = ["run", "bytes", "codec ms"] + [name for name, _ in LINKS]
    rows = [[row["label"], format_bytes(row["bytes"]), f"{row['codec_ms']:.2f}"]
            + [f"{ms:.3g} ms ({format_ratio(faster)})" for ms, faster in zip(row["ms"], row["faster"])]
            for row in calculate_links(runs)]
    return header, rows


def measured_rows(rows):
    """Header and rows of what was measured between hosts, as text."""
    header = ["method", "hosts", "link", "exchange ms"] + [f"against {name}" for name, _ in BASELINES]
    cells = []
    for row in rows:
        times = [format_ratio(row[key] / row["exchange_ms"]) if row[key] else "-" for _, key in BASELINES]
        cells.append([row["name"], str(row["hosts"]), row["rate"], f"{row['exchange_ms']:.1f}"] + times)
    return header, cells


def measured_words(rows):
    """What was measured, or that nothing was."""
    if not rows:
        return ("The exchange between hosts was not measured: network namespaces are not permitted here, or it was left "
                "out.")
    return (f"Measured: the whole exchange (encode, wire, decode) of {rows[0]['elements']:,} fp32 elements between hosts that "
            "are network namespaces of this machine, on shaped links; how many times faster than dense all-reduces.")


def text_report(runs, measured):
    first = runs[0]
    parts = [f"{first['network']}, {first['parameters']:,} parameters, {first['steps']} steps on {first['ranks']} "
             f"ranks, seed {first['seed']}", "", format_table(*result_rows(runs)), "",
             "to dense: accuracy against the dense run of the same optimizer, in points. bytes/step: what a rank sends.",
             "tensors, model: how many times less that is than dense, for the compressed tensors and the whole model;",
             "steady: for the compressed tensors once the warm-up is over, as for the rest of a longer training."]
    parts += warmup_sentences(runs)
    parts += ["", "The exchange of a step on slower links. A calculation, not a measurement: bytes / (0.957 x line rate)",
              "plus the codec times measured here; in brackets, how many times faster than dense.", "",
              format_table(*link_rows(runs)), "", measured_words(measured), ""]
    if measured:
        parts += [format_table(*measured_rows(measured)), ""]
    return "\n".join(parts + plain_words(runs))


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN.json", help="files written by fashion_mnist --json")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."), metavar="DIR",
                        help="where report.json and report.html go (default: here)")
    parser.add_argument("--links", type=pathlib.Path, metavar="LINKS.json",
                        help="what benchmarks/links.sh --json has measured, for the report")
    arguments = parser.parse_args(argv)
    try:
        runs = load_runs(arguments.runs)
        measured = load_links(arguments.links)
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "report.json").write_text(json.dumps({"runs": runs, "links": measured}, indent=1) + "\n", encoding="utf-8")
        page = report_html.page(
            runs=runs, dense_names=set(COUNTERPARTS.values()), words=plain_words(runs),
            results=result_rows(runs), warmups=warmup_sentences(runs), links=link_rows(runs),
            measured=(measured_words(measured), measured_rows(measured)))
        (arguments.output / "report.html").write_text(page, encoding="utf-8")
    except (ReportError, OSError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 1
    print(text_report(runs, measured))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
