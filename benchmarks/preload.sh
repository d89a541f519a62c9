#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# preload.sh --hosts N | --one-host | --accuracy: what `terse run` does to programs that nobody changed. See
# benchmarks/preload.py, which does the work.
set -euo pipefail
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/mpi-environment.sh
source "$folder/../deploy/mpi-environment.sh"
exec python3 "$folder/preload.py" "$@"
