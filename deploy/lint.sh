#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Style and static analysis, over the whole tree or the files named.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<'TEXT'
usage: deploy/lint.sh [--format] [--tidy] [--scripts] [--fix] [-p BUILD] [-j N] [FILE...]

Checks the tree, or the files named, and fails with what is wrong and where. Without a choice: all three.

  --format    clang-format: is every C and C++ file laid out by .clang-format?
  --tidy      clang-tidy, by .clang-tidy, over the compile database of BUILD (takes minutes)
  --scripts   shellcheck over every shell script
  --fix       with --format: lay the files out instead
  -p BUILD    a configured build folder (default: build/release)
  -j N        how many at once (default: the number of processors)
  --help      this text

Ends with status 77 when the one check asked for has no tool on this machine.
TEXT
}

checks=()
fix=no
build=$root/build/release
jobs=$(nproc)
files=()
while (($# > 0)); do
  case $1 in
    --format | --tidy | --scripts) checks+=("${1#--}") ;;
    --fix) fix=yes ;;
    -p | -j)
      if (($# < 2)); then
        echo "lint.sh: $1 needs a value" >&2
        exit 2
      fi
      [[ $1 == -p ]] && build=$(realpath "$2")
      [[ $1 == -j ]] && jobs=$2
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    -*)
      echo "lint.sh: unknown option '$1'" >&2
      usage >&2
      exit 2
      ;;
    *) files+=("$(realpath "$1")") ;;
  esac
  shift
done
((${#checks[@]} > 0)) || checks=(format scripts tidy)
cd "$root"

# The files of the tree that fit a pattern, or those of the command line that do; ends of names in \0.
select_files() {
  if ((${#files[@]} > 0)); then
    printf '%s\0' "${files[@]}" | grep --null-data --extended-regexp "$1" || true
  else
    find "$root" \( -path "$root/.git" -o -path "$root/build*" -o -path "$root/results" \) -prune -o \
      -type f -print0 | grep --null-data --extended-regexp "$1" | sort --zero-terminated
  fi
}

require() {
  command -v "$1" >/dev/null && return
  echo "lint.sh: $1 is not on this machine; deploy/install-deps.sh installs it" >&2
  exit 77
}

check_format() {
  require clang-format
  local mode=(--dry-run -Werror)
  [[ $fix == yes ]] && mode=(-i)
  select_files '\.(h|hpp|c|cc|cu|cuh)$' | xargs --null --no-run-if-empty --max-args=20 \
    clang-format "${mode[@]}"
}

check_scripts() {
  require shellcheck
  {
    select_files '\.sh$'
    select_files '/\.ci/run$'
  } | xargs --null --no-run-if-empty shellcheck --external-sources --source-path="$root"
}

check_tidy() {
  require clang-tidy
  if [[ ! -f $build/compile_commands.json ]]; then
    echo "lint.sh: $build has no compile database: configure it first, or name another with -p" >&2
    return 1
  fi
  # What is compiled, and by whose flags, is the build's to say. The count of suppressed warnings, which is
  # of foreign headers, is no news.
  local compiled
  compiled=$(python3 -c '
import json, sys
for entry in json.load(open(sys.argv[1])):
    print(entry["file"])' "$build/compile_commands.json")
  select_files '\.(c|cc)$' |
    { grep --null-data --fixed-strings --line-regexp --file=<(echo "$compiled") || true; } |
    xargs --null --no-run-if-empty --max-args=1 --max-procs="$jobs" \
      clang-tidy -p "$build" --quiet --extra-arg=-Wno-unknown-warning-option \
      2> >(grep --invert-match 'warnings\? generated' >&2)
}

failed=()
for check in "${checks[@]}"; do
  status=0
  "check_$check" || status=$?
  if ((status == 77)) && ((${#checks[@]} == 1)); then
    exit 77
  fi
  ((status == 0)) || failed+=("$check")
done
if ((${#failed[@]} > 0)); then
  echo "lint: failed: ${failed[*]}" >&2
  exit 1
fi
echo "lint: nothing to complain of (${checks[*]})"
