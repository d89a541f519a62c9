#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Does compression cost accuracy? Trains the LeNet with every method on several seeds, paired with dense.

One run says nothing: over seeds a dense run's accuracy has a standard deviation of about 0.2 points. So each
method's loss of accuracy is taken seed by seed against the dense run of the same seed, and what is reported is
the mean loss, its standard error and the one-sided 95 % bound (Student's t): the loss is below the bound with
95 % confidence. Fails when a bound is above --limit.

Runs that are finished are not repeated, so it can be stopped and started again.
"""
import argparse
import json
import math
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COUNTERPARTS = {"topk": "sgd", "dgc": "sgd", "quantize": "sgd", "onebit_adam": "adam"}
RUNS = ("sgd", "topk", "dgc", "quantize", "adam", "onebit_adam")

# One-sided 95 % quantile of Student's t, by degrees of freedom from 1.
T_95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753)


def train(program, run, seed, arguments):
    """The result of one training, from its file if it is there already."""
    path = arguments.output / f"{run}_seed{seed}_epochs{arguments.epochs:g}.json"
    if not path.exists():
        partial = path.with_suffix(".part")
        command = (f'source "{ROOT}/deploy/mpi-environment.sh" && exec mpirun.openmpi -np {arguments.ranks} "$@"')
        print(f"{run}, seed {seed} ...", flush=True)
        subprocess.run(["bash", "-c", command, "accuracy_study", str(program), "--network", "lenet", "--run", run,
                        "--seed", str(seed), "--epochs", str(arguments.epochs), "--evaluations", "1", "--quiet",
                        "--json", str(partial)], check=True)
        os.replace(partial, path)
    result = json.loads(path.read_text(encoding="utf-8"))
    if result["name"] != run or result["seed"] != seed or len(set(result["parameter_hash"])) != 1:
        raise RuntimeError(f"{path} is not a result of {run} with seed {seed} whose ranks agree; remove it")
    return result


def bound(losses):
    """Mean, standard error and one-sided 95 % bound of the mean."""
    n = len(losses)
    mean = sum(losses) / n
    error = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / (n - 1) / n)
    return mean, error, mean + T_95[n - 2] * error


def markdown(results, seeds, arguments):
    """The tables, and whether every bound is within the limit."""
    steps = results["sgd", seeds[0]]["steps"]
    lines = [f"LeNet (61,706 parameters) on Fashion-MNIST, {arguments.ranks} ranks with 32 images each, "
             f"{arguments.epochs:g} epochs ({steps:,} steps).", "Test accuracy in percent:", "",
             "| run | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |",
             "|---|" + "---|" * (len(seeds) + 1)]
    for run in RUNS:
        values = [results[run, seed]["test_accuracy"] for seed in seeds]
        lines.append(f"| `{run}` | " + " | ".join(f"{value:.2f}" for value in values)
                     + f" | {sum(values) / len(values):.2f} |")
    lines += ["", "Loss of accuracy against the dense run of the same seed, in points:", "",
              f"| run | against | mean loss | standard error | 95 % bound (at most {arguments.limit:g}) |",
              "|---|---|---|---|---|"]
    within = True
    for run, dense in COUNTERPARTS.items():
        mean, error, limit = bound([results[dense, seed]["test_accuracy"] - results[run, seed]["test_accuracy"]
                                    for seed in seeds])
        within = within and limit <= arguments.limit
        lines.append(f"| `{run}` | `{dense}` | {mean:+.2f} | {error:.2f} | {limit:+.2f} |")
    return "\n".join(lines) + "\n", within


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build" / "release", metavar="DIR",
                        help="a build with the examples (default: build/release)")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "results" / "accuracy_study", metavar="DIR",
                        help="where the runs' results are kept (default: results/accuracy_study)")
    parser.add_argument("--seeds", type=int, default=8, metavar="N", help="seeds 1 to N (default: 8)")
    parser.add_argument("--epochs", type=float, default=5, metavar="N", help="of each run (default: 5)")
    parser.add_argument("--ranks", type=int, default=4, metavar="N", help="MPI ranks (default: 4)")
    parser.add_argument("--limit", type=float, default=0.4, metavar="POINTS",
                        help="the highest bound that passes (default: 0.4)")
    arguments = parser.parse_args(argv)
    if not 2 <= arguments.seeds <= len(T_95) + 1:
        parser.error(f"--seeds is 2 to {len(T_95) + 1}")
    program = arguments.build / "bin" / "fashion_mnist"
    if not program.exists():
        parser.error(f"{program} is not there; build it with: cmake --preset release && "
                     "cmake --build --preset release --target fashion_mnist")
    arguments.output.mkdir(parents=True, exist_ok=True)
    seeds = list(range(1, arguments.seeds + 1))
    try:
        # Seed by seed, so that an early stop leaves whole pairs.
        results = {(run, seed): train(program, run, seed, arguments) for seed in seeds for run in RUNS}
    except (subprocess.CalledProcessError, OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"accuracy_study.py: {error}", file=sys.stderr)
        return 1
    text, within = markdown(results, seeds, arguments)
    (arguments.output / "accuracy.md").write_text(text, encoding="utf-8")
    print(text)
    if not within:
        print("accuracy_study.py: a bound is above the limit", file=sys.stderr)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
