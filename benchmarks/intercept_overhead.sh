#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# What a call that passes through the preload library costs over the bare MPI.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${1:-$root/build/release}
if [[ $build == -* ]]; then
  echo "usage: benchmarks/intercept_overhead.sh [BUILD]" >&2
  exit 2
fi
# shellcheck source=deploy/mpi-environment.sh
source "$root/deploy/mpi-environment.sh"
report=$(mktemp)
trap 'rm -f "$report"' EXIT
for mpi in openmpi mpich; do
  library=$build/lib/libterse_mpi_$mpi.so
  program=$build/bin/intercept_overhead_$mpi
  [[ -x $program ]] || continue
  if [[ $mpi == openmpi ]]; then
    launcher=(mpirun.openmpi -x "LD_PRELOAD=$library" -n)
  else
    launcher=(mpirun.mpich -genv LD_PRELOAD "$library" -n)
  fi
  echo "== $mpi, observing"
  "${launcher[@]}" 1 env TERSE_REPORT="$report" "$program"
  # A job of one rank has none.
  echo "== $mpi, observing, with hang forensics"
  "${launcher[@]}" 2 env TERSE_REPORT="$report" "$program"
  echo "== $mpi, not configured"
  "${launcher[@]}" 1 "$program"
done
