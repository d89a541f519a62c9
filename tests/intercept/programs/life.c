/* SPDX-License-Identifier: Apache-2.0
 *
 * usage: life threads|training|nofinalize|pmpi|abort
 *
 * Programs that begin and end in unusual ways, one with many threads, and one that looks like training.
 */
#include <pthread.h>

#include "tests/intercept/programs/check.h"

enum { kThreads = 3, kCalls = 20 };

static void reduce(float* in, float* out, int count, MPI_Comm comm) {
  static float reference[70000];
  MPI_Allreduce(in, out, count, MPI_FLOAT, MPI_SUM, comm);
  PMPI_Allreduce(in, reference, count, MPI_FLOAT, MPI_SUM, comm);
  ++calls[kBlocking];
  same(out, reference, sizeof(float) * (size_t)count, "sum");
}

/* Two gradients, a tensor that is too small, a loss in double precision and a count of samples. */
static void training(int steps) {
  static float gradient[70000], sum[70000];
  double loss = 0.5 * rank, mean;
  int samples = 32, all;
  for (int step = 0; step < steps; ++step) {
    fill(gradient, 70000, step);
    reduce(gradient, sum, 70000, MPI_COMM_WORLD);
    reduce(gradient, sum, 5000, MPI_COMM_WORLD);
    reduce(gradient, sum, 100, MPI_COMM_WORLD);
    MPI_Allreduce(&loss, &mean, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    MPI_Allreduce(&samples, &all, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    calls[kBlocking] += 2;
    if (all != 32 * size) fail("samples");
  }
}

static void* worker(void* comm) {
  float in[64], out[64], reference[64];
  for (int i = 0; i < kCalls; ++i) {
    for (int n = 0; n < 64; ++n) in[n] = (float)(rank + 1) / (float)(n + i + 1);
    if (i % 2 == 0) {
      MPI_Allreduce(in, out, 64, MPI_FLOAT, MPI_SUM, *(MPI_Comm*)comm);
    } else {
      MPI_Request request;
      MPI_Iallreduce(in, out, 64, MPI_FLOAT, MPI_SUM, *(MPI_Comm*)comm, &request);
      MPI_Wait(&request, MPI_STATUS_IGNORE);
    }
    PMPI_Allreduce(in, reference, 64, MPI_FLOAT, MPI_SUM, *(MPI_Comm*)comm);
    same(out, reference, sizeof(out), "thread");
  }
  return NULL;
}

static void threads(void) {
  pthread_t ids[kThreads];
  MPI_Comm comms[kThreads];
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < kThreads; ++i) MPI_Comm_dup(MPI_COMM_WORLD, &comms[i]);
    for (int i = 0; i < kThreads; ++i) pthread_create(&ids[i], NULL, worker, &comms[i]);
    for (int i = 0; i < kThreads; ++i) pthread_join(ids[i], NULL);
    for (int i = 0; i < kThreads; ++i) MPI_Comm_free(&comms[i]);
    calls[kBlocking] += kThreads * kCalls / 2;
    calls[kNonblocking] += kThreads * kCalls / 2;
  }
}

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "";
  int provided = MPI_THREAD_SINGLE;
  if (strcmp(mode, "threads") == 0) {
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  } else if (strcmp(mode, "pmpi") == 0) {
    PMPI_Init(&argc, &argv);
  } else {
    MPI_Init(&argc, &argv);
  }
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (strcmp(mode, "threads") == 0) {
    if (provided == MPI_THREAD_MULTIPLE) threads();
  } else {
    training(20);
  }
  if (strcmp(mode, "abort") == 0) {
    PMPI_Barrier(MPI_COMM_WORLD);
    MPI_Abort(MPI_COMM_WORLD, 3);
  }
  print_calls();
  if (strcmp(mode, "nofinalize") == 0) {
    PMPI_Barrier(MPI_COMM_WORLD);
    exit(0);
  }
  if (strcmp(mode, "pmpi") == 0) {
    PMPI_Finalize();
  } else {
    MPI_Finalize();
  }
  return 0;
}
