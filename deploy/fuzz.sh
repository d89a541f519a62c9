#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the fuzz targets of tests/fuzz and runs them, one after the other, from the committed corpus and from
# what earlier runs found. Says how many inputs each has executed; fails with the first finding.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<'TEXT'
usage: deploy/fuzz.sh [--runs N] [--seed N] [-j N] [TARGET...]

Builds the fuzz targets with libFuzzer and the address and undefined-behaviour sanitizers in build/fuzz, and runs
those named (default: all, which are the files of tests/fuzz that define one).

  --runs N   inputs that each target executes (default: 200000)
  --seed N   where the random numbers begin (default: 1); another one explores elsewhere
  -j N       compilers that run at once (default: the number of processors)
  --help     this text
TEXT
}

runs=200000
seed=1
jobs=$(nproc)
targets=()
while (($# > 0)); do
  case $1 in
    --runs | --seed | -j)
      if [[ ! ${2:-} =~ ^[1-9][0-9]*$ ]]; then
        echo "fuzz.sh: $1 takes a number from 1 up, not '${2:-}'" >&2
        exit 2
      fi
      case $1 in
        --runs) runs=$2 ;;
        --seed) seed=$2 ;;
        -j) jobs=$2 ;;
      esac
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    -*)
      echo "fuzz.sh: unknown option '$1'" >&2
      usage >&2
      exit 2
      ;;
    *) targets+=("$1") ;;
  esac
  shift
done

cd "$root"
mapfile -t all < <(basename -s .cc tests/fuzz/*.cc | grep -vx replay)
((${#targets[@]} > 0)) || targets=("${all[@]}")
for target in "${targets[@]}"; do
  if [[ " ${all[*]} " != *" $target "* ]]; then
    echo "fuzz.sh: no target '$target'; there are: ${all[*]}" >&2
    exit 2
  fi
done

deploy/install-deps.sh --no-examples
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --parallel "$jobs"

export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1
findings=$root/build/fuzz/findings
mkdir -p "$findings"
total=0
for target in "${targets[@]}"; do
  grown=$root/build/fuzz/corpus/$target # what this target finds on its way: never in the source tree
  log=$findings/$target.log
  mkdir -p "$grown"
  if ! "build/fuzz/bin/fuzz_$target" -runs="$runs" -seed="$seed" -max_len=16384 -timeout=10 \
    -print_final_stats=1 -artifact_prefix="$findings/$target-" "$grown" "tests/fuzz/corpus/$target" \
    >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    cat >&2 <<TEXT

fuzz.sh: a finding in '$target'; everything that it said is in $log
  reproduce: build/fuzz/bin/fuzz_$target $findings/$target-<kind>-<hash>
  minimize:  build/fuzz/bin/fuzz_$target -minimize_crash=1 -runs=100000 <that file>
  keep:      copy the small file to tests/fuzz/corpus/$target/, where the ordinary tests run it from then on
TEXT
    exit 1
  fi
  executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  printf '%-20s %10d executions\n' "$target" "$executed"
  total=$((total + executed))
done
printf '%-20s %10d executions, no finding\n' total "$total"
