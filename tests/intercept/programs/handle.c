/* SPDX-License-Identifier: Apache-2.0
 *
 * usage: handle LIBRARY local|global|reopened
 *
 * A program that is linked to no MPI: it loads LIBRARY, and calls what it finds in the handle. Sums of whole
 * numbers, which are exact in any order; where gradients are compressed (TERSE_COMPRESSOR), to one in a
 * hundred. reopened: the handle is closed and opened again before the first call.
 */
#include <dlfcn.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kCount = 20000, kSteps = 40 };

static void* mpi;
static int rank, size;

static void* find(const char* name) {
  void* const symbol = dlsym(mpi, name);
  if (symbol == NULL) {
    fprintf(stderr, "handle: %s\n", dlerror());
    exit(1);
  }
  return symbol;
}

#define CALL(name) ((__typeof__(&name))find(#name))
#if defined(OPEN_MPI)
#define HANDLE(type, symbol, constant) ((type)find(symbol))
#else
#define HANDLE(type, symbol, constant) (constant)
#endif
#define WORLD HANDLE(MPI_Comm, "ompi_mpi_comm_world", MPI_COMM_WORLD)
#define FLOAT HANDLE(MPI_Datatype, "ompi_mpi_float", MPI_FLOAT)
#define SUM HANDLE(MPI_Op, "ompi_mpi_op_sum", MPI_SUM)

static void check(const float* got, int step, float tolerance) {
  for (int i = 0; i < kCount; ++i) {
    const float wanted = (float)(size * (i % 100 + step) + size * (size - 1) / 2);
    if (!(fabsf(got[i] - wanted) <= tolerance)) {
      fprintf(stderr, "rank %d, step %d: element %d is %g, not %g\n", rank, step, i, got[i], wanted);
      exit(1);
    }
  }
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const int scope = strcmp(argv[2], "global") == 0 ? RTLD_GLOBAL : RTLD_LOCAL;
  mpi = dlopen(argv[1], RTLD_NOW | scope);
  if (mpi != NULL && strcmp(argv[2], "reopened") == 0) {
    dlclose(mpi);
    mpi = dlopen(argv[1], RTLD_NOW | scope);
  }
  if (mpi == NULL) {
    fprintf(stderr, "handle: %s\n", dlerror());
    return 1;
  }
  if (CALL(MPI_Init)(&argc, &argv) != MPI_SUCCESS) return 1;
  CALL(MPI_Comm_rank)(WORLD, &rank);
  CALL(MPI_Comm_size)(WORLD, &size);
  static float in[kCount], out[kCount];
  const char* const compressor = getenv("TERSE_COMPRESSOR");
  for (int step = 0; step < kSteps; ++step) {
    for (int i = 0; i < kCount; ++i) in[i] = (float)(i % 100 + step + rank);
    CALL(MPI_Allreduce)(in, out, kCount, FLOAT, SUM, WORLD);
    check(out, step, compressor == NULL ? 0 : 0.01f * (float)(size * (100 + kSteps + size)));
    if (compressor == NULL) {
      CALL(PMPI_Allreduce)(in, out, kCount, FLOAT, SUM, WORLD);
      check(out, step, 0);
    }
  }
  if (rank == 0) {
    printf("expect {\"blocking\": %d, \"nonblocking\": 0, \"persistent\": 0}\n", kSteps * size);
    fflush(stdout);
  }
  CALL(MPI_Finalize)();
  return 0;
}
