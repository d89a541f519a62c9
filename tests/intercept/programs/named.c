/* SPDX-License-Identifier: Apache-2.0
 *
 * usage: named
 *
 * A job that says what its gradients are called (terse_preload.h) and exchanges them in another order in each
 * step, as frameworks do that send what is ready: gradient descent on three tensors of one size. Prints
 * 'expect {...}' and 'distance' as `descend` does.
 */
#include <math.h>

#include "runtime/client/include/terse/terse_preload.h"
#include "tests/intercept/programs/check.h"

enum { kTensors = 3, kParameters = 6000, kSteps = 200 };

static float weight[kTensors][kParameters], sum[kParameters];

static float target(int r, int t, int i) { return (float)((i * 31 + r * 17 + t * 40) % 101) / 50.0f - 1.0f; }

int main(int argc, char** argv) {
  static const char* const names[kTensors] = {"first", "second", "third"};
  unsigned state = 3;
  double squares = 0;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  for (int step = 0; step < kSteps; ++step) {
    state = state * 1664525u + 1013904223u;
    for (int turn = 0; turn < kTensors; ++turn) {
      const int t = (int)((state >> 28) + (unsigned)turn) % kTensors;
      for (int i = 0; i < kParameters; ++i) sum[i] = weight[t][i] - target(rank, t, i);
      terse_preload_name(names[t]);
      MPI_Allreduce(MPI_IN_PLACE, sum, kParameters, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      ++calls[kBlocking];
      for (int i = 0; i < kParameters; ++i)
        weight[t][i] -= 0.1f * powf(0.98f, (float)step) * sum[i] / (float)size;
    }
  }
  for (int t = 0; t < kTensors; ++t) {
    for (int i = 0; i < kParameters; ++i) {
      double mean = 0;
      for (int r = 0; r < size; ++r) mean += target(r, t, i) / size;
      squares += (weight[t][i] - mean) * (weight[t][i] - mean);
    }
  }
  if (rank == 0) printf("distance %.6f\n", sqrt(squares / (kTensors * kParameters)));
  print_calls();
  MPI_Finalize();
  return 0;
}
