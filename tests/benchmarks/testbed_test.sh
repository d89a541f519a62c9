#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Hosts have their own names and shaped links, MPI runs across them, and nothing is left behind: not after success,
# not after failure, not when it is ended from outside.
# shellcheck disable=SC2016  # what is quoted is for the shells on the hosts
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
testbed=$root/benchmarks/testbed
# shellcheck source=deploy/mpi-environment.sh
source "$root/deploy/mpi-environment.sh"
output=$(mktemp)
trap 'rm -f "$output"' EXIT

fail() {
  echo "testbed_test: $1; the output:" >&2
  cat "$output" >&2
  exit 1
}
run() {
  local status=0
  "$testbed" "$@" >"$output" 2>&1 || status=$?
  if [[ $status == 77 ]]; then
    cat "$output"
    exit 77
  fi
  return "$status"
}
# What this test's own testbeds leave: their names begin with the process that made them.
left_behind() {
  ip netns list | grep -o "terse-bed-$1-[^ ]*" || true
}

run --hosts 3 --rate 100mbit -- bed-each hostname || fail "bed-each failed"
[[ $(sort "$output" | tr '\n' ' ') == "bed0 bed1 bed2 " ]] || fail "hosts are not called bed0 to bed2"

run --hosts 2 --rate 100mbit -- bed-mpirun sh -c 'echo "$OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE on $(hostname)"' ||
  fail "bed-mpirun failed"
for rank in 0 1; do
  grep -qx "$rank of 2 on bed$rank" "$output" || fail "rank $rank is not on host bed$rank"
done

# Both directions: the host's own device, and its port of the switch.
run --hosts 2 --rate 100mbit -- sh -c 'bed-each tc qdisc show dev "$BED_INTERFACE"; tc -netns "${BED_PREFIX}switch" qdisc show' ||
  fail "tc failed"
[[ $(grep -c "tbf.*rate 100Mbit" "$output") == 4 ]] || fail "not every end of a link is shaped"

status=0
run --hosts 2 --rate none -- sh -c 'exit 7' || status=$?
[[ $status == 7 ]] || fail "the command's status 7 became $status"
status=0
run --hosts 2 --rate fast -- true || status=$?
[[ $status == 2 ]] || fail "a rate that is none ended with status $status, expected 2"
grep -q "'fast' is no rate" "$output" || fail "a rate that is none is not named"

"$testbed" --hosts 2 --rate none -- bed-each sleep "600.$$" >"$output" 2>&1 &
bed=$!
for _ in $(seq 200); do
  if [[ $(ip netns pids "terse-bed-$bed-1" 2>/dev/null | wc -l) -gt 0 ]]; then break; fi
  sleep 0.1
done
[[ -n $(left_behind "$bed") ]] || fail "the testbed did not start"
kill -TERM "$bed"
status=0
wait "$bed" || status=$?
[[ $status == 143 ]] || fail "a testbed that was ended has status $status, expected 143"
[[ -z $(left_behind "$bed") ]] || fail "namespaces are left: $(left_behind "$bed")"
if pgrep -f "sleep 600.$$" >/dev/null; then fail "a process on a host is left"; fi
