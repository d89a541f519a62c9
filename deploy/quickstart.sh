#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Trains a network on Fashion-MNIST on four MPI ranks with six ways to exchange gradients, and reports what
# each saved and cost. From nothing: installs what is missing and builds first.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<'TEXT'
usage: deploy/quickstart.sh [options]

Installs what is missing, builds Terse, trains one network six times on four MPI ranks (sgd, topk, dgc,
quantize, adam, onebit_adam), measures the exchange of a large gradient between four hosts at 1 Gbit/s (network
namespaces; where they are not permitted, this is left out), prints tables and writes report.json and report.html.

  --network NAME   cnn (default, 670,122 parameters) or lenet (61,706)
  --epochs N       passes over the training data in each run (default: 4)
  --seed N         of the initial weights and of the order of the data (default: 1)
  --output DIR     where the results go (default: results/quickstart)
  --no-links       leave the measurement between hosts out
  -j N             compilers that run at once (default: the number of processors)
  --help           this text
TEXT
}

fail() {
  echo "quickstart.sh: $*" >&2
  exit 1
}

network=cnn
epochs=4
seed=1
output=$root/results/quickstart
jobs=$(nproc)
links=1
while (($# > 0)); do
  case $1 in
    --network | --epochs | --seed | --output | -j)
      if (($# < 2)); then
        echo "quickstart.sh: $1 needs a value" >&2
        exit 2
      fi
      case $1 in
        --network) network=$2 ;;
        --epochs) epochs=$2 ;;
        --seed) seed=$2 ;;
        --output) output=$(realpath -m "$2") ;;
        -j) jobs=$2 ;;
      esac
      shift
      ;;
    --no-links) links=0 ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      echo "quickstart.sh: unknown option '$1'" >&2
      usage >&2
      exit 2
      ;;
  esac
  shift
done
if [[ $network != cnn && $network != lenet ]]; then
  echo "quickstart.sh: --network is cnn or lenet, not '$network'" >&2
  exit 2
fi
if [[ ! $seed =~ ^[0-9]{1,18}$ ]]; then
  echo "quickstart.sh: --seed takes a number, not '$seed'" >&2
  exit 2
fi
if [[ ! $epochs =~ ^[0-9]+(\.[0-9]+)?$ || $epochs =~ ^[0.]+$ ]]; then
  echo "quickstart.sh: --epochs takes a number above 0, not '$epochs'" >&2
  exit 2
fi
if [[ ! $jobs =~ ^[1-9][0-9]*$ ]]; then
  echo "quickstart.sh: -j takes a number from 1 up, not '$jobs'" >&2
  exit 2
fi

"$root/deploy/install-deps.sh"

cd "$root"
mkdir -p "$output"
build_log=$output/build.log
targets=(fashion_mnist)
if ((links)); then
  targets+=(links_programs)
fi
echo "Building in build/release (log: $build_log) ..."
if ! { cmake --preset release && cmake --build --preset release --parallel "$jobs" --target "${targets[@]}"; } \
  >"$build_log" 2>&1; then
  tail -n 30 "$build_log" >&2
  fail "the build failed; the whole log is $build_log"
fi

# shellcheck source=deploy/mpi-environment.sh
source deploy/mpi-environment.sh
# mpirun makes stderr a pipe, so whether a person is watching has to be found out here.
progress=lines
if [[ -t 2 ]]; then
  progress=bar
fi

runs=(sgd topk dgc quantize adam onebit_adam)
results=()
echo "Training '$network' on Fashion-MNIST: ${#runs[@]} runs of $epochs epochs on 4 ranks, seed $seed"
SECONDS=0
for run in "${runs[@]}"; do
  result=$output/$run.json
  rm -f "$result" # an old result must not pass for this run's
  mpirun.openmpi -np 4 build/release/bin/fashion_mnist --network "$network" --run "$run" --epochs "$epochs" \
    --seed "$seed" --progress "$progress" --json "$result" \
    || fail "the run '$run' failed (see above)"
  results+=("$result")
done
echo "All runs took $((SECONDS / 60)) min $((SECONDS % 60)) s."
echo

report=(--output "$output")
if ((links)); then
  echo "Measuring the exchange of 25.6 million elements between four hosts at 1 Gbit/s ..."
  status=0
  benchmarks/links.sh --hosts 4 --rate 1gbit --elements 25.6M --repeat 3 --json >"$output/links.json" || status=$?
  case $status in
    0) report+=(--links "$output/links.json") ;;
    77) echo "It is left out." ;; # why has been said
    *) fail "the exchange between hosts cannot be measured (see above); --no-links leaves it out" ;;
  esac
  echo
fi

python3 examples/02_fashion_mnist/report.py "${report[@]}" "${results[@]}" \
  || fail "the runs cannot be reported (see above); their results are in $output"
echo
echo "Results: $output/report.json"
echo "Report:  $output/report.html"
