/* SPDX-License-Identifier: Apache-2.0
 *
 * Work that is no training, whose results must not change by a bit: conjugate gradients in double precision,
 * a histogram of integers, and reductions of many kinds, each again and again, as periodic as a training job.
 * Rank 0 prints 'bits' and a hash of all that came out.
 */
#include <math.h>
#include <stdint.h>

#include "tests/intercept/programs/check.h"

enum { kRounds = 40, kOwn = 2000, kBins = 20000, kLarge = 30000 };

static uint64_t hash = 14695981039346656037u; /* FNV-1a */

static void take(const void* data, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ ((const unsigned char*)data)[i]) * 1099511628211u;
}

static void reduce(const void* from, void* to, int count, MPI_Datatype type, size_t bytes, MPI_Op op) {
  MPI_Allreduce(from, to, count, type, op, MPI_COMM_WORLD);
  ++calls[kBlocking];
  take(to, (size_t)count * bytes);
}

static double dot(const double* a, const double* b) {
  double sum = 0, all;
  for (int i = 1; i <= kOwn; ++i) sum += a[i] * b[i];
  reduce(&sum, &all, 1, MPI_DOUBLE, sizeof(double), MPI_SUM);
  return all;
}

/* On the Laplacian of a line; each rank has kOwn of its points and room for its neighbours' values. */
static void solve(void) {
  static double x[kOwn + 2], r[kOwn + 2], p[kOwn + 2], q[kOwn + 2];
  const int left = rank > 0 ? rank - 1 : MPI_PROC_NULL, right = rank < size - 1 ? rank + 1 : MPI_PROC_NULL;
  for (int i = 1; i <= kOwn; ++i) p[i] = r[i] = sin((double)(i + rank * kOwn));
  double rr = dot(r, r);
  for (int round = 0; round < kRounds; ++round) {
    MPI_Sendrecv(&p[1], 1, MPI_DOUBLE, left, 0, &p[kOwn + 1], 1, MPI_DOUBLE, right, 0, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    MPI_Sendrecv(&p[kOwn], 1, MPI_DOUBLE, right, 1, &p[0], 1, MPI_DOUBLE, left, 1, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    for (int i = 1; i <= kOwn; ++i) q[i] = 2.001 * p[i] - p[i - 1] - p[i + 1];
    const double alpha = rr / dot(p, q);
    for (int i = 1; i <= kOwn; ++i) {
      x[i] += alpha * p[i];
      r[i] -= alpha * q[i];
    }
    const double next = dot(r, r);
    for (int i = 1; i <= kOwn; ++i) p[i] = r[i] + next / rr * p[i];
    rr = next;
  }
  take(x, sizeof(x));
}

static void count(void) {
  static int own[kBins], all[kBins];
  unsigned state = (unsigned)rank + 1;
  for (int round = 0; round < kRounds; ++round) {
    memset(own, 0, sizeof(own));
    for (int i = 0; i < 10 * kBins; ++i) {
      state = state * 1664525u + 1013904223u;
      ++own[(state >> 8) % kBins];
    }
    reduce(own, all, kBins, MPI_INT, sizeof(int), MPI_SUM);
  }
}

static void larger(void* in, void* inout, int* n, MPI_Datatype* type) {
  const float* a = in;
  float* b = inout;
  (void)type;
  for (int i = 0; i < *n; ++i) b[i] = fabsf(a[i]) > fabsf(b[i]) ? a[i] : b[i] * 0.5f + a[i];
}

/* Large and small, of all kinds but sums of many floats: those are what is compressed. */
static void mix(void) {
  static float floats[kLarge], float_results[kLarge];
  static double doubles[kLarge], double_results[kLarge];
  static long longs[kLarge], long_results[kLarge];
  MPI_Op op;
  MPI_Op_create(larger, 0, &op);
  for (int round = 0; round < kRounds; ++round) {
    fill(floats, kLarge, round);
    for (int i = 0; i < kLarge; ++i) {
      doubles[i] = floats[i] / 3.0;
      longs[i] = (long)floats[i] * (rank + 1);
    }
    reduce(floats, float_results, kLarge, MPI_FLOAT, sizeof(float), MPI_MAX);
    reduce(floats, float_results, kLarge, MPI_FLOAT, sizeof(float), op);
    reduce(floats, float_results, 1000, MPI_FLOAT, sizeof(float), MPI_SUM);
    reduce(doubles, double_results, kLarge, MPI_DOUBLE, sizeof(double), MPI_SUM);
    reduce(doubles, double_results, kLarge, MPI_DOUBLE, sizeof(double), MPI_MIN);
    reduce(longs, long_results, kLarge, MPI_LONG, sizeof(long), MPI_SUM);
    reduce(longs, long_results, kLarge, MPI_LONG, sizeof(long), MPI_BXOR);
    reduce(MPI_IN_PLACE, longs, kLarge, MPI_LONG, sizeof(long), MPI_SUM);
  }
  MPI_Op_free(&op);
}

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  solve();
  count();
  mix();
  uint64_t all = 0;
  PMPI_Reduce(&hash, &all, 1, MPI_UINT64_T, MPI_BXOR, 0, MPI_COMM_WORLD);
  if (rank == 0) printf("bits %016llx\n", (unsigned long long)all);
  print_calls();
  MPI_Finalize();
  return 0;
}
