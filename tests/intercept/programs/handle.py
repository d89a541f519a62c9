# SPDX-License-Identifier: Apache-2.0
"""usage: handle.py LIBRARY: Python without mpi4py, by ctypes: MPI's functions out of a handle that is private to it."""

import ctypes
import sys

COUNT = 5000
mpi = ctypes.CDLL(sys.argv[1])
if "mpich" in sys.argv[1]:
    world, real, total = (ctypes.c_int(value) for value in (0x44000000, 0x4C00040A, 0x58000003))
else:
    names = ("ompi_mpi_comm_world", "ompi_mpi_float", "ompi_mpi_op_sum")
    world, real, total = (ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(mpi, name))) for name in names)
mpi.MPI_Init(None, None)
rank, size = ctypes.c_int(), ctypes.c_int()
mpi.MPI_Comm_rank(world, ctypes.byref(rank))
mpi.MPI_Comm_size(world, ctypes.byref(size))
for step in range(10):
    values = (ctypes.c_float * COUNT)(*(i % 1000 + step + rank.value for i in range(COUNT)))
    result = (ctypes.c_float * COUNT)()
    mpi.MPI_Allreduce(values, result, COUNT, real, total, world)
    extra = size.value * (size.value - 1) // 2
    if list(result) != [size.value * (i % 1000 + step) + extra for i in range(COUNT)]:
        print(f"rank {rank.value}: another sum", flush=True)
        mpi.MPI_Abort(world, 3)
if rank.value == 0:
    print(f'expect {{"blocking": {10 * size.value}, "nonblocking": 0, "persistent": 0}}', flush=True)
mpi.MPI_Finalize()
