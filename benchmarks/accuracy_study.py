#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Does compression cost accuracy? Trains networks with every method on several seeds, paired with dense.

One run says nothing: over seeds a dense run's accuracy has a standard deviation of about 0.2 points. So each
method's loss is taken seed by seed against the dense run of the same seed and optimizer, and what is reported is
the mean loss, its standard error and the one-sided 95 % bound (Student's t): the loss is below the bound with
95 % confidence. With --limit it fails when a bound is above it. A policy's loss (lgreco_...) is taken against the
uniform setting that it starts from, besides.

Runs that are finished are not repeated, so it can be stopped and started again.
"""
import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent

# One-sided 95 % quantile of Student's t, by degrees of freedom from 1.
T_95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753)


class Setting(NamedTuple):
    """A configuration; {early} is the number of steps of a warm-up or until a freeze."""
    optimizer: str  # the dense setting with the same optimizer, which it is compared with
    rule: str       # --run of fashion_mnist that applies its results
    config: str
    against: str = ""  # the setting that it is compared with besides, which differs in one thing


def averaged(compressor, options="", against=""):
    """A compressed mean of gradients, for the optimizer that the network is commonly trained with."""
    return Setting("", "", f"method: allreduce\ncompressor: {compressor}\n{options}", against)


def decided(compressor, against, policy, options=""):
    """The same, but for a policy that decides anew while it trains, against the uniform setting."""
    return averaged(compressor, f"{options}policy: {{{{{policy}}}}}\n", against)


DENSE = "method: allreduce\ncompressor: none\n"
ADAM = "method: onebit_adam\ncompressor: onebit\nadam: {{freeze: {early}}}\n"
# For a freeze long before 1 / (1 - beta2) steps, where the variance is still far too small.
ADAM_CORRECTED = "method: onebit_adam\ncompressor: onebit\nadam: {{freeze: {early}, bias_correction: true}}\n"
BLOCKS = "onebit: {{scale: l1, block: 1024}}\n"
TOPK_KEYS = "density: 0.01, warmup_density: [1.0, 0.25, 0.0625, 0.03], warmup_steps: {early}"
TOPK_WARMUP = f"topk: {{{{{TOPK_KEYS}}}}}\n"
LGRECO = "name: lgreco"
FAMILIES = f"{LGRECO}, families: [quantize, topk, powersgd]"


def decided_by(metric=""):
    """L-GreCo in each family and in all three, where errors add up by a metric, or by the default."""
    error, name = (f", error: {metric}", f"_{metric}") if metric else ("", "")
    return {
        f"lgreco_quantize{name}": decided("quantize", "quantize4", LGRECO + error),
        f"lgreco_topk{name}": decided("topk", "topk", LGRECO + error, TOPK_WARMUP),
        f"lgreco_powersgd{name}": decided("powersgd", "powersgd4", LGRECO + error, "powersgd: {{rank: 4}}\n"),
        f"lgreco_mixed{name}": decided("quantize", "quantize4", FAMILIES + error),
    }


SETTINGS = {
    "sgd": Setting("sgd", "sgd", DENSE),
    "adam": Setting("adam", "adam", DENSE),
    "topk": averaged("topk", TOPK_WARMUP),
    "topk_sparse": averaged("topk", f"topk: {{{{{TOPK_KEYS}, exchange: sparse_reduce}}}}\n", against="topk"),
    "quantize2": averaged("quantize", "quantize: {{bits: 2}}\n"),
    "quantize4": averaged("quantize", "quantize: {{bits: 4}}\n"),
    "powersgd4": averaged("powersgd", "powersgd: {{rank: 4}}\n"),
    "dgc": Setting("sgd", "dgc", "method: dgc\ncompressor: topk\ndgc: {{density: 0.001, momentum: 0.9, "
                                 "warmup_density: [1.0, 0.015625, 0.0078, 0.004], warmup_steps: {early}}}\n"),
    "dgc_sparse": Setting("sgd", "dgc", "method: dgc\ncompressor: topk\ntopk: {{exchange: sparse_reduce}}\n"
                                        "dgc: {{density: 0.001, momentum: 0.9, warmup_density: [1.0, 0.015625, 0.0078, "
                                        "0.004], warmup_steps: {early}}}\n", "dgc"),
    "onebit_adam": Setting("adam", "onebit_adam", ADAM),
    "onebit_adam_l1": Setting("adam", "onebit_adam", ADAM + BLOCKS),
    "onebit_adam_bc": Setting("adam", "onebit_adam", ADAM_CORRECTED),
    "onebit_adam_l1_bc": Setting("adam", "onebit_adam", ADAM_CORRECTED + BLOCKS),
    **decided_by(),
    **decided_by("relative"),
    **decided_by("adam"),
    "lgreco_topk_mixed": decided("topk", "topk", FAMILIES, TOPK_WARMUP),
}


class Network(NamedTuple):
    """What is trained, and how long."""
    program: str
    options: tuple
    steps: int
    early: int      # steps of a warm-up or until a freeze
    optimizer: str  # of the settings that leave it open
    ranks: int
    title: str


NETWORKS = {
    "lenet": Network("fashion_mnist", ("--network", "lenet", "--evaluations", "1"), 2340, 468, "sgd", 4,
                     "LeNet (61,706 parameters) on Fashion-MNIST, 32 images per rank"),
    "cnn": Network("fashion_mnist", ("--network", "cnn", "--evaluations", "1"), 1872, 374, "sgd", 4,
                   "The larger network (670,122 parameters) on Fashion-MNIST, 32 images per rank"),
    "char_lm": Network("char_lm", ("--batch", "8"), 600, 120, "adam", 2,
                       "The character model on /usr/share/common-licenses, 8 sequences per rank"),
}

# char_lm gives every mean of gradients to its Adam; dgc at density 1 is momentum SGD, dense.
CHAR_LM_SGD = "method: dgc\ncompressor: topk\ndgc: {density: 1.0, momentum: 0.9}\n"
# What its dense runs do best with: 0.001 to 0.002 and 0.1 to 1 were tried.
CHAR_LM_RATES = {"adam": "0.002", "sgd": "0.1"}


def command_of(network, setting, config_file, arguments):
    """The program and its options, but for the seed and the result."""
    chosen = NETWORKS[network]
    command = [str(arguments.build / "bin" / chosen.program), *chosen.options, "--steps", str(chosen.steps),
               "--config", str(config_file), "--quiet"]
    if chosen.program == "fashion_mnist":
        return [*command, "--run", SETTINGS[setting].rule or chosen.optimizer]
    return [*command, "--learning-rate", CHAR_LM_RATES[SETTINGS[setting].optimizer or chosen.optimizer]]


INTERVAL = 100  # policy.interval's default

# The ranks share a host, where dense is faster; this is about what compression does to a training.
COMPRESSED = "dense_when_faster: false\n"


def config_of(network, setting):
    """The Terse configuration of a setting."""
    if network == "char_lm" and setting == "sgd":
        return COMPRESSED + CHAR_LM_SGD
    return COMPRESSED + SETTINGS[setting].config.format(early=NETWORKS[network].early)


def agree(result):
    """Whether all ranks ended with the same parameters."""
    return result["ranks_agree"] if "ranks_agree" in result else len(set(result["parameter_hash"])) == 1


def train(network, setting, seed, arguments):
    """The result of one training, from its file if it is there already."""
    config = config_of(network, setting)
    path = arguments.output / f"{network}_{setting}_seed{seed}.json"
    if not path.exists():
        partial = path.with_suffix(".part")
        config_file = path.with_suffix(".yaml")
        config_file.write_text(config, encoding="utf-8")
        print(f"{network}, {setting}, seed {seed} ...", flush=True)
        script = (f'source "{ROOT}/deploy/mpi-environment.sh" && exec mpirun.openmpi -np {NETWORKS[network].ranks} '
                  '"$@"')
        subprocess.run(["bash", "-c", script, "accuracy_study",
                        *command_of(network, setting, config_file, arguments), "--seed", str(seed),
                        "--json", str(partial)], check=True, stdout=subprocess.DEVNULL)
        os.replace(partial, path)
    result = json.loads(path.read_text(encoding="utf-8"))
    if (result["config"] != config or result["seed"] != seed or result["steps"] != NETWORKS[network].steps
            or result["ranks"] != NETWORKS[network].ranks or not agree(result)):
        raise RuntimeError(f"{path} is not a result of {setting} with seed {seed} whose ranks agree; remove it")
    return result


def bound(losses):
    """Mean, standard error and one-sided 95 % bound of the mean."""
    n = len(losses)
    mean = sum(losses) / n
    error = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / (n - 1) / n)
    return mean, error, mean + T_95[n - 2] * error


def is_policy(setting):
    return setting.startswith("lgreco")


def pairs(settings, network):
    """What is compared with what: with dense, and with what differs in one thing, where these are among the settings."""
    return [(setting, other) for setting in settings
            for other in (SETTINGS[setting].optimizer or network.optimizer, SETTINGS[setting].against)
            if other != setting and other in settings]


def bounded(setting, other, network):
    """Whether --limit bounds the loss: what differs in the exchange alone is for comparison; a policy is held against its
    uniform setting as well."""
    return is_policy(setting) or other == (SETTINGS[setting].optimizer or network.optimizer)


def mean_of(results, key):
    return sum(result[key] for result in results) / len(results)


def decisions(results, seeds, arguments):
    """A table of what policies decided in the second half of their trainings, and what that took."""
    policies = [setting for setting in arguments.settings if is_policy(setting)]
    if not policies:
        return []
    lines = ["", "What the policies decided, means over the decisions of the second half of each training: bytes that a rank "
             "sends in a step for tensors that are compressed, beside the uniform setting's and the Lagrangian's lower bound; "
             "and rank 0's time for error tables and decisions, as a part of the whole training's:", "",
             "| setting | uniform bytes | bytes | times fewer | lower bound | at most | plans | measuring | deciding |",
             "|---|---|---|---|---|---|---|---|---|"]
    for setting in policies:
        runs = [results[setting, seed] for seed in seeds]
        events = [event for run in runs for event in run["policy"]["events"] if 2 * event["step"] > run["steps"]]
        mean = {key: mean_of(events, key) for key in ("uniform_bytes", "bytes", "lower_bound")}
        plans = sum(run["policy"]["plans"] for run in runs) / len(runs)
        part = {key: 100 * sum(run["policy"][key] for run in runs) / sum(run["step_ms"] * run["steps"] for run in runs)
                for key in ("measure_ms", "decide_ms")}
        lines.append(f"| `{setting}` | {mean['uniform_bytes']:,.0f} | {mean['bytes']:,.0f} "
                     f"| {mean['uniform_bytes'] / mean['bytes']:.2f} | {mean['lower_bound']:,.0f} "
                     f"| {mean['uniform_bytes'] / mean['lower_bound']:.2f} | {plans:.1f} "
                     f"| {part['measure_ms']:.2f} % | {part['decide_ms']:.2f} % |")
    return lines


def markdown(network, results, seeds, arguments):
    """The tables of one network, and its highest bound."""
    chosen = NETWORKS[network]
    bits = "bits_per_character" in results[arguments.settings[0], seeds[0]]
    unit = "bits per character" if bits else "test loss"
    key = "bits_per_character" if bits else "test_loss"
    lines = [f"{chosen.title}, {chosen.ranks} ranks, {chosen.steps:,} steps. Test accuracy in percent, then "
             f"{unit} (mean), and how many times fewer bytes each rank sent, for tensors that are compressed and for "
             "the whole model, warm-up included:", "",
             "| setting | " + " | ".join(f"seed {seed}" for seed in seeds) + f" | mean | {unit} | tensors | model |",
             "|---|" + "---|" * (len(seeds) + 4)]
    for setting in arguments.settings:
        runs = [results[setting, seed] for seed in seeds]
        lines.append(f"| `{setting}` | " + " | ".join(f"{run['test_accuracy']:.2f}" for run in runs)
                     + f" | {mean_of(runs, 'test_accuracy'):.2f} | {mean_of(runs, key):.4f}"
                     + f" | {mean_of(runs, 'ratio_compressed_tensors'):.1f}"
                     + f" | {mean_of(runs, 'ratio_whole_model'):.1f} |")
    lines += ["", "Against the dense run of the same seed and optimizer, or the run that differs in the exchange or the "
              f"policy alone: loss of accuracy in points, and rise of the {unit}, each as mean ± standard error; and how "
              "many times fewer bytes:", "",
              f"| setting | against | loss of accuracy | 95 % bound | rise of the {unit} | fewer bytes |",
              "|---|---|---|---|---|---|"]
    highest = -math.inf
    for setting, other in pairs(arguments.settings, chosen):
        mean, error, limit = bound([results[other, seed]["test_accuracy"] - results[setting, seed]["test_accuracy"]
                                    for seed in seeds])
        rise, rise_error, _ = bound([results[setting, seed][key] - results[other, seed][key] for seed in seeds])
        if bounded(setting, other, chosen):
            highest = max(highest, limit)
        fewer = (mean_of([results[other, seed] for seed in seeds], "bytes_sent_per_step")
                 / mean_of([results[setting, seed] for seed in seeds], "bytes_sent_per_step"))
        lines.append(f"| `{setting}` | `{other}` | {mean:+.2f} ± {error:.2f} | {limit:+.2f} "
                     f"| {rise:+.4f} ± {rise_error:.4f} | {fewer:.2f} |")
    lines += decisions(results, seeds, arguments)
    return "\n".join(lines) + "\n", highest


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build" / "release", metavar="DIR",
                        help="a build with the examples (default: build/release)")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "results" / "accuracy_study", metavar="DIR",
                        help="where the runs' results are kept (default: results/accuracy_study)")
    parser.add_argument("--network", choices=NETWORKS, default="lenet", help="what to train (default: lenet)")
    parser.add_argument("--settings", metavar="A,B",
                        help=f"which of {', '.join(SETTINGS)}, beside those they are compared with (default: all but "
                        "sparse reduce and policies, those with bias correction for char_lm alone)")
    parser.add_argument("--no-dense", action="store_true", help="leave the dense runs out")
    parser.add_argument("--steps", type=int, metavar="N",
                        help="of each training, instead of the network's own; warm-ups are shortened alike")
    parser.add_argument("--ranks", type=int, metavar="N", help="of each training, instead of the network's own")
    parser.add_argument("--seeds", type=int, default=8, metavar="N", help="seeds 1 to N (default: 8)")
    parser.add_argument("--limit", type=float, default=math.inf, metavar="POINTS",
                        help="the highest bound that passes (default: none)")
    arguments = parser.parse_args(argv)
    if not 2 <= arguments.seeds <= len(T_95) + 1:
        parser.error(f"--seeds is 2 to {len(T_95) + 1}")
    every = [name for name in SETTINGS if not name.endswith("_sparse") and not is_policy(name)
             and (arguments.network == "char_lm" or not name.endswith("_bc"))]
    wanted = arguments.settings.split(",") if arguments.settings else every
    for setting in wanted:
        if setting not in SETTINGS:
            parser.error(f"no setting is called {setting}; there are {', '.join(SETTINGS)}")
    chosen = NETWORKS[arguments.network]
    if arguments.steps is not None:
        if not 10 <= arguments.steps <= 1000000:
            parser.error("--steps is 10 to 1000000")
        chosen = chosen._replace(steps=arguments.steps, early=chosen.early * arguments.steps // chosen.steps)
    if arguments.ranks is not None:
        if not 2 <= arguments.ranks <= 64:
            parser.error("--ranks is 2 to 64")
        chosen = chosen._replace(ranks=arguments.ranks)
    if chosen != NETWORKS[arguments.network]:
        arguments.output /= f"{chosen.ranks}_ranks_{chosen.steps}_steps"
        NETWORKS[arguments.network] = chosen
    wanted = {setting for name in wanted
              for setting in (name, SETTINGS[name].against, SETTINGS[name].optimizer or chosen.optimizer)}
    if arguments.no_dense:
        wanted -= {"sgd", "adam"}
    arguments.settings = [setting for setting in SETTINGS if setting in wanted]
    if any(is_policy(setting) for setting in arguments.settings) and chosen.steps < 2 * INTERVAL:
        parser.error(f"policies decide every {INTERVAL} steps; --steps {chosen.steps} is too few")
    if not arguments.settings:
        parser.error("no setting is left")
    if arguments.limit < math.inf and not any(bounded(setting, other, chosen)
                                              for setting, other in pairs(arguments.settings, chosen)):
        parser.error("--limit, but nothing that it bounds is compared")
    program = arguments.build / "bin" / chosen.program
    if not program.exists():
        parser.error(f"{program} is not there; build it with: cmake --preset release && "
                     f"cmake --build --preset release --target {chosen.program}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    seeds = list(range(1, arguments.seeds + 1))
    try:
        # Seed by seed, so that an early stop leaves whole pairs.
        results = {(setting, seed): train(arguments.network, setting, seed, arguments)
                   for seed in seeds for setting in arguments.settings}
    except (subprocess.CalledProcessError, OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"accuracy_study.py: {error}", file=sys.stderr)
        return 1
    text, highest = markdown(arguments.network, results, seeds, arguments)
    (arguments.output / f"{arguments.network}.md").write_text(text, encoding="utf-8")
    print(text)
    if highest > arguments.limit:
        print(f"accuracy_study.py: a bound is above {arguments.limit:g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
