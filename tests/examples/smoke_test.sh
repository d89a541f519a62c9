#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# smoke_test.sh FASHION_MNIST CHAR_LM FOLDER: a few steps of everything in examples/, from the data files to
# the report. Both programs fail when their ranks end with different parameters.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
fashion_mnist=$1
char_lm=$2
folder=$3

if [[ ! -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ]]; then
  echo "skipped: the package dataset-fashion-mnist is not installed"
  exit 77
fi
# shellcheck source=deploy/mpi-environment.sh
source "$root/deploy/mpi-environment.sh"
rm -rf "$folder"
mkdir -p "$folder"

# Ten steps: DGC and 1-bit Adam compress fully after two of them.
results=()
for run in sgd topk dgc quantize adam onebit_adam; do
  mpirun.openmpi -np 2 "$fashion_mnist" --network lenet --run "$run" --steps 10 --evaluations 1 --quiet \
    --json "$folder/$run.json"
  results+=("$folder/$run.json")
done
PYTHONDONTWRITEBYTECODE=1 python3 "$root/examples/02_fashion_mnist/report.py" --output "$folder" "${results[@]}"
[[ -s $folder/report.json && -s $folder/report.html ]]

mpirun.openmpi -np 2 "$char_lm" --steps 5 --quiet --config "$root/examples/03_char_lm/config.yaml"
for method in dgc onebit_adam; do
  mpirun.openmpi -np 2 -x TERSE_METHOD=$method -x TERSE_ADAM_FREEZE=2 "$char_lm" --steps 5 --quiet
done

# Errors are statuses, not just words.
status=0
mpirun.openmpi -np 2 "$fashion_mnist" --run no_such_run 2>/dev/null || status=$?
[[ $status == 2 ]] || { echo "an unknown run ended with status $status, expected 2"; exit 1; }
status=0
mpirun.openmpi -np 2 "$fashion_mnist" --data "$folder/none" --steps 1 2>"$folder/errors" || status=$?
[[ $status == 1 ]] || { echo "missing data ended with status $status, expected 1"; exit 1; }
grep -q "none/train-images-idx3-ubyte.gz: cannot be opened" "$folder/errors"
