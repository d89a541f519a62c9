#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# plan_study_test.sh PLAN_STUDY CHAR_LM FOLDER: gradients are recorded, and L-GreCo's plans of them keep what they
# promise; files that are none are refused.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
plan_study=$1
char_lm=$2
folder=$3
# shellcheck source=deploy/mpi-environment.sh
source "$root/deploy/mpi-environment.sh"
rm -rf "$folder"
mkdir -p "$folder"

mpirun.openmpi -np 2 -x TERSE_COMPRESSOR=none "$char_lm" --width 64 --blocks 1 --batch 2 --steps 6 --quiet \
  --record "$folder" --record-from 1 --record-steps 5
"$plan_study" --window 2 --json "$folder"/rank*.safetensors >"$folder/rows"
"$plan_study" --window 2 --json "$folder"/rank*.safetensors | cmp - "$folder/rows"
python3 - "$folder" <<'PYTHON'
import json, pathlib, struct, sys
folder = pathlib.Path(sys.argv[1])
rows = json.loads((folder / "rows").read_text(encoding="utf-8"))
assert [(row["uniform"], len(row["families"]), row["error"]) for row in rows] == [
    (uniform, families, error) for uniform in ("quantize", "topk", "powersgd") for families in (0, 3)
    for error in ("l2", "squared", "relative", "adam")], rows
for row in rows:
    assert row["tensors"] == 7 == sum(row["settings"].values()), row
    assert 0 < row["measured_error"] <= row["uniform_error"] * (1 + 1e-12), row
    assert 0 < row["bytes"] <= row["uniform_bytes"], row
    assert row["alpha"] <= 1 and row["lower_bound"] <= row["bytes"] * (1 + 1e-12), row
# One family's choices are among those of all three.
for own, mixed in ((i + own, i + own + 4) for i in (0, 8, 16) for own in range(4)):
    assert rows[mixed]["lower_bound"] <= rows[own]["lower_bound"] * (1 + 1e-9), (own, mixed)
header = json.loads((folder / "rank0.safetensors").read_bytes()[8:][:struct.unpack(
    "<Q", (folder / "rank0.safetensors").read_bytes()[:8])[0]])
assert header["__metadata__"] == {"from": "1", "steps": "5"} and header["5/head.bias"]["dtype"] == "F32", header
PYTHON

refuse() {
  local words=$1 status=0
  "$plan_study" --window 2 "$folder/bad" 2>"$folder/errors" >/dev/null || status=$?
  [[ $status == 1 ]] || { echo "'$words': status $status, expected 1"; exit 1; }
  grep -q "bad: .*$words" "$folder/errors" || { echo "expected '$words', not:"; cat "$folder/errors"; exit 1; }
}
head -c 5 "$folder/rank0.safetensors" >"$folder/bad"
refuse "not a safetensors file"
head -c -1 "$folder/rank0.safetensors" >"$folder/bad"
refuse "not inside the file"
write() {
  python3 -c 'import struct, sys; header = sys.argv[2].encode(); open(sys.argv[1], "wb").write(
    struct.pack("<Q", int(sys.argv[3]) if len(sys.argv) > 3 else len(header)) + header + bytes(64))' "$folder/bad" "$@"
}
write '{}' 18446744073709551615
refuse "not a safetensors file"
write '{"1/w":'
refuse "its header is not JSON"
write '{}'
refuse "no tensors"
write '{"1/w": {"dtype": "F32", "shape": [4, 4]}}'
refuse "malformed"
write '{"1/w": {"dtype": "F32", "shape": [1e300], "data_offsets": [0, 64]}}'
refuse "a number that is none"
write '{"1/w": {"dtype": "F32", "shape": [-4, -4], "data_offsets": [0, 64]}}'
refuse "a number that is none"
write '{"1/w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 64]}}'
refuse "another number of bytes"
write '{"1/w": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}}'
refuse "a shape that does not fit"
write '{"w": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}'
refuse "STEP/NAME"
entry() { printf '"%s": {"dtype": "F32", "shape": [1], "data_offsets": [%d, %d]}' "$1" "$2" "$(($2 + 4))"; }
write "{$(entry 1/a 0), $(entry 1/b 4), $(entry 2/a 8), $(entry 3/a 12)}"
refuse "step 2 is not whole"
write "{$(entry 1/a 0), $(entry 2/b 4)}"
refuse "step 2 has other tensors"
write "{$(entry 1/a 0), $(entry 2/a 4)}"
cp "$folder/bad" "$folder/one"
write "{$(entry 1/a 0), $(entry 3/a 4)}"
status=0
"$plan_study" --window 1 "$folder/one" "$folder/bad" 2>"$folder/errors" || status=$?
[[ $status == 1 ]] && grep -q "has other tensors or steps" "$folder/errors"

status=0
mpirun.openmpi -np 1 "$char_lm" --steps 5 --quiet --record "$folder" --record-from 4 2>"$folder/errors" || status=$?
[[ $status == 1 ]] || { echo "too many steps to record: status $status, expected 1"; exit 1; }
grep -q "go beyond the training's 5 steps" "$folder/errors"
