#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# overlap.sh --hosts N --rate R --elements E [--json]: how well kernels and wire overlap, from traces. See
# benchmarks/overlap.py, which does the work.
set -euo pipefail
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/mpi-environment.sh
source "$folder/../deploy/mpi-environment.sh"
exec python3 "$folder/overlap.py" "$@"
