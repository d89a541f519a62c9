/* SPDX-License-Identifier: Apache-2.0
 *
 * What the C test programs share: they call an MPI_ name and compare each result, bit for bit, with the
 * PMPI_ name's, which no preload library sees. At the end rank 0 prints how many calls all ranks made
 * through MPI_ names, for the driver (run.py) to compare with the report.
 */
#ifndef TERSE_TESTS_INTERCEPT_PROGRAMS_CHECK_H_
#define TERSE_TESTS_INTERCEPT_PROGRAMS_CHECK_H_

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(OPEN_MPI)
#include <mpi-ext.h>
#endif

#if defined(OPEN_MPI) && !defined(MPI_VERSION_4)
#define AllreduceInit MPIX_Allreduce_init
#else
#define AllreduceInit MPI_Allreduce_init
#endif

enum { kBlocking, kNonblocking, kPersistent };
static long long calls[3];
static int rank, size;

static inline void fail(const char* what) {
  fprintf(stderr, "rank %d: %s\n", rank, what);
  fflush(stderr);
  _Exit(1);
}

static inline void same(const void* got, const void* wanted, size_t bytes, const char* what) {
  if (memcmp(got, wanted, bytes) != 0) fail(what);
}

/* Values whose sum depends on the order of summation, so that equal bits mean the same path. */
static inline void fill(float* values, int count, int seed) {
  for (int i = 0; i < count; ++i) {
    unsigned state = (unsigned)(i * 2654435761u) ^ (unsigned)(rank * 40503u + seed * 97u);
    state = state * 1664525u + 1013904223u;
    values[i] = (float)(state >> 8) / (float)(1 + i % 1000);
  }
}

static inline void print_calls(void) {
  long long sum[3];
  PMPI_Reduce(calls, sum, 3, MPI_LONG_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
  if (rank == 0) {
    printf("expect {\"blocking\": %lld, \"nonblocking\": %lld, \"persistent\": %lld}\n", sum[0], sum[1],
           sum[2]);
    fflush(stdout);
  }
}

#endif /* TERSE_TESTS_INTERCEPT_PROGRAMS_CHECK_H_ */
