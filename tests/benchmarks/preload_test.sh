#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# preload_test.sh BUILD: every mode of benchmarks/preload.sh in small: the rows have the promised keys, and what needs no
# measuring is right. What the times are is not asked: benchmarks measure, tests do not.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
if [[ ! -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ]]; then
  echo "skipped: the package dataset-fashion-mnist is not installed"
  exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
preload=("$root/benchmarks/preload.sh" --build "$1" --json)

"${preload[@]}" --one-host --ranks 2 --pairs 2 --programs train,histogram --scale 0.02 >"$folder/one_host"
accuracy=("${preload[@]}" --accuracy --ranks 2 --seeds 2 --epochs 1 --settings "dense,topk"
  --train "--hidden 16 --batch 200" --output "$folder/kept")
"${accuracy[@]}" >"$folder/accuracy"
# Again, from what was kept; and a limit that no run can keep to.
"${accuracy[@]}" >"$folder/again" 2>"$folder/errors"
[[ ! -s $folder/errors ]] || { echo "preload_test: finished runs were repeated"; exit 1; }
cmp "$folder/accuracy" "$folder/again"
status=0
"${accuracy[@]}" --limit=-100 >/dev/null 2>&1 || status=$?
[[ $status == 1 ]] || { echo "a bound above the limit ended with status $status, expected 1"; exit 1; }
# What was kept is not taken for that of another training.
status=0
"${accuracy[@]}" --train "--hidden 17 --batch 200" >/dev/null 2>&1 || status=$?
[[ $status == 1 ]] || { echo "another training took kept results, status $status"; exit 1; }

python3 - "$folder" <<'PYTHON'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
read = lambda name: json.loads((folder / name).read_text(encoding="utf-8"))
train, histogram = read("one_host")
for row, name in (train, "train"), (histogram, "histogram"):
    assert list(row) == ["program", "ranks", "options", "pairs", "work_ratio", "work_ratios", "whole_ratio", "whole_ratios",
                         "seconds", "compressed_calls", "tensors"], row
    assert row["program"] == name and row["pairs"] == 2 and len(row["whole_ratios"]) == 2 and row["work_ratio"] > 0, row
# 8 steps, of which 3 are learned from; three layers.
assert train["compressed_calls"] == 15 and len(train["tensors"]) == 3, train
assert histogram["compressed_calls"] == 0 and histogram["tensors"] == [], histogram
dense, topk = read("accuracy")
assert list(dense) == ["setting", "test_accuracy", "mean"], dense
assert list(topk) == ["setting", "test_accuracy", "mean", "loss", "standard_error", "bound"], topk
assert all(accuracy > 50 for row in (dense, topk) for accuracy in row["test_accuracy"]), (dense, topk)
assert abs(topk["loss"] - (dense["mean"] - topk["mean"])) < 1e-9 and topk["bound"] >= topk["loss"], topk
kept = read("kept/topk_seed1.json")
assert kept["times_less"] > 5 and kept["compressed_calls"] > 100, kept
PYTHON

status=0
"${preload[@]}" --hosts 2 --rate none --runs 1 --steps 20 --dense-steps 5 --settings dense,topk --train "--hidden 64" \
  >"$folder/hosts" || status=$?
((status == 0)) || exit "$status"
python3 - "$folder/hosts" <<'PYTHON'
import json, sys
dense, topk = json.load(open(sys.argv[1], encoding="utf-8"))
for row, name, steps in (dense, "dense", 5), (topk, "topk", 20):
    assert list(row) == ["rate", "hosts", "train", "setting", "steps", "runs", "steps_per_second", "step_ms", "alone_ms",
                         "communication_share", "times_dense", "times_dense_ring"], row
    assert row["hosts"] == 2 and row["setting"] == name and row["steps"] == steps and row["train"] == "--hidden 64", row
    assert len(row["runs"]) == 1 and row["step_ms"] > 0 and row["alone_ms"] > 0, row
assert dense["times_dense"] == 1 and topk["times_dense"] > 0 and topk["times_dense_ring"] is None, (dense, topk)
PYTHON
