#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# links.sh --hosts N --rate R --elements E [--json]: every method's whole exchange against dense all-reduces, on
# hosts with links of that rate. See benchmarks/links.py, which does the work.
set -euo pipefail
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/mpi-environment.sh
source "$folder/../deploy/mpi-environment.sh"
exec python3 "$folder/links.py" "$@"
