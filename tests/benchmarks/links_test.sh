#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# links_test.sh BUILD: the rows of a small run have the promised keys, and every time is there. What the times
# are is not asked: benchmarks measure, tests do not.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
status=0
"$root/benchmarks/links.sh" --build "$1" --hosts 2 --rate none --elements 50K --repeat 1 --json >"$rows" || status=$?
((status == 0)) || exit "$status"
python3 - "$rows" <<'PYTHON'
import json, sys
rows = json.load(open(sys.argv[1], encoding="utf-8"))
assert [row["name"] for row in rows] == ["dgc", "dgc_bf16", "onebit", "quantize4", "powersgd4", "topk"], rows
for row in rows:
    assert list(row) == ["rate", "hosts", "elements", "transport", "name", "exchange_ms", "encode_ms", "decode_ms",
                         "ring_ms", "default_ms", "gloo_ms"], row
    assert row["hosts"] == 2 and row["elements"] == 50000 and row["rate"] == "none" and row["transport"], row
    for key in ("exchange_ms", "encode_ms", "decode_ms", "ring_ms", "default_ms"):
        assert row[key] > 0, (key, row)
PYTHON
