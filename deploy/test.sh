#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds Terse and runs its tests, from nothing: installs what is missing, configures, builds, tests. The
# last lines are ctest's summary, with the name of each test that failed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<'TEXT'
usage: deploy/test.sh [--preset NAME] [--label LABEL] [-j N] [--no-examples]

Installs what is missing, builds, and runs the tests.

  --preset NAME   release (default), debug, asan, ubsan or tsan; builds in build/NAME
  --label LABEL   run only the tests with this label (a regular expression); `slow` and `lint` run only
                  when asked for
  -j N            builds and tests that run at once (default: the number of processors)
  --no-examples   leave out the examples and libtorch, which is most of the download
  --help          this text
TEXT
}

preset=release
label=
jobs=$(nproc)
dependencies=()
configure=()
while (($# > 0)); do
  case $1 in
    --preset | --label | -j)
      if (($# < 2)); then
        echo "test.sh: $1 needs a value" >&2
        exit 2
      fi
      case $1 in
        --preset) preset=$2 ;;
        --label) label=$2 ;;
        -j) jobs=$2 ;;
      esac
      shift
      ;;
    --no-examples)
      dependencies+=(--no-examples)
      configure+=(-DTERSE_BUILD_EXAMPLES=OFF)
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      echo "test.sh: unknown option '$1'" >&2
      usage >&2
      exit 2
      ;;
  esac
  shift
done
case $preset in
  release) ;;
  debug | asan | ubsan | tsan) dependencies=(--no-examples) ;; # these presets build no examples
  *)
    echo "test.sh: unknown preset '$preset': release, debug, asan, ubsan or tsan" >&2
    exit 2
    ;;
esac
if [[ ! $jobs =~ ^[1-9][0-9]*$ ]]; then
  echo "test.sh: -j takes a number from 1 up, not '$jobs'" >&2
  exit 2
fi

stage="installing what is missing"
trap '[[ $? == 0 ]] || echo "test.sh: failed while $stage" >&2' EXIT

"$root/deploy/install-deps.sh" "${dependencies[@]}"

cd "$root"
stage="configuring"
cmake --preset "$preset" "${configure[@]}"
stage="building"
cmake --build --preset "$preset" --parallel "$jobs"

# shellcheck source=deploy/mpi-environment.sh
source deploy/mpi-environment.sh
selection=(--preset "$preset")
if [[ -n $label ]]; then
  selection=(--preset "$preset-all" --label-regex "$label")
fi
trap - EXIT # ctest's summary says it all
exec ctest "${selection[@]}" --parallel "$jobs"
