# SPDX-License-Identifier: Apache-2.0
"""Python over mpi4py: blocking, in place, nonblocking, communicators that come and go. The values are whole
numbers, whose sums are exact in any order."""

from array import array

from mpi4py import MPI

COUNT = 5000
world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()
calls = {"blocking": 0, "nonblocking": 0, "persistent": 0}


def check(got: array, step: int) -> None:
    wanted = [size * (i % 1000 + step) + size * (size - 1) // 2 for i in range(COUNT)]
    if got.tolist() != wanted:
        print(f"rank {rank}: another sum", flush=True)
        world.Abort(3)


for step in range(10):
    values = array("f", (i % 1000 + step + rank for i in range(COUNT)))
    result = array("f", bytes(4 * COUNT))
    world.Allreduce([values, MPI.FLOAT], [result, MPI.FLOAT], op=MPI.SUM)
    check(result, step)
    result = array("f", values)
    world.Allreduce(MPI.IN_PLACE, [result, MPI.FLOAT], op=MPI.SUM)
    check(result, step)
    comm = world.Dup()
    comm.Iallreduce([values, MPI.FLOAT], [result, MPI.FLOAT], op=MPI.SUM).Wait()
    check(result, step)
    comm.Free()
    calls["blocking"] += 2
    calls["nonblocking"] += 1
if rank == 0:
    print("expect", "{" + ", ".join(f'"{form}": {n * size}' for form, n in calls.items()) + "}", flush=True)
