/* SPDX-License-Identifier: Apache-2.0
 *
 * usage: descend [MOMENTUM [nesterov]]
 *
 * A job that trains, with no word of Terse: gradient descent with momentum on a sum of quadratic functions,
 * one a rank; with a loss in double precision, a histogram of integers, and now and then a validation. What
 * must be exact is held against PMPI_Allreduce, the parameters of all ranks against each other, and the
 * result against the solution. Prints 'expect {...}' as the other programs do, 'distance' to the
 * solution, and 'moving': which part of the parameters the last step moved.
 */
#include <math.h>

#include "tests/intercept/programs/check.h"

enum { kParameters = 20000, kSteps = 400, kBins = 16 };

static float gradient[kParameters], sum[kParameters], weight[kParameters], velocity[kParameters];
static float movement[kParameters];

/* Rank r's function has its least at this place. */
static float target(int r, int i) { return (float)((i * 31 + r * 17) % 101) / 50.0f - 1.0f; }

static void check_exact(void) {
  double residual = 1.0 / (rank + 3), all, reference;
  int bins[kBins], histogram[kBins], exact[kBins];
  for (int i = 0; i < kBins; ++i) bins[i] = rank * 7 + i;
  MPI_Allreduce(&residual, &all, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  PMPI_Allreduce(&residual, &reference, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  same(&all, &reference, sizeof(all), "a sum in double precision");
  MPI_Allreduce(bins, histogram, kBins, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  PMPI_Allreduce(bins, exact, kBins, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  same(histogram, exact, sizeof(exact), "a histogram");
  calls[kBlocking] += 2;
}

/* The elements that are no rounding errors beside the largest. */
static double moving(void) {
  float most = 0;
  int count = 0;
  for (int i = 0; i < kParameters; ++i) most = fmaxf(most, fabsf(movement[i]));
  for (int i = 0; i < kParameters; ++i) count += fabsf(movement[i]) > 1e-4f * most;
  return (double)count / kParameters;
}

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  const float momentum = argc > 1 ? strtof(argv[1], NULL) : 0.5f;
  const int nesterov = argc > 2;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  for (int step = 0; step < kSteps; ++step) {
    for (int i = 0; i < kParameters; ++i) gradient[i] = weight[i] - target(rank, i);
    if (step % 2 == 0) {
      MPI_Allreduce(gradient, sum, kParameters, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    } else {
      memcpy(sum, gradient, sizeof(sum));
      MPI_Allreduce(MPI_IN_PLACE, sum, kParameters, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    }
    ++calls[kBlocking];
    check_exact();
    const float rate = 0.1f * (1.0f - momentum) * powf(0.99f, (float)step);
    for (int i = 0; i < kParameters; ++i) {
      const float mean = sum[i] / (float)size;
      velocity[i] = momentum * velocity[i] + mean;
      movement[i] = nesterov ? mean + momentum * velocity[i] : velocity[i];
      weight[i] -= rate * movement[i];
    }
    if (step == 200) {
      float accuracy[3] = {1, 2, 3}, mean[3];
      MPI_Allreduce(accuracy, mean, 3, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      ++calls[kBlocking];
      if (mean[2] != 3.0f * (float)size) fail("a validation");
    }
  }
  double squares = 0;
  for (int i = 0; i < kParameters; ++i) {
    double mean = 0;
    for (int r = 0; r < size; ++r) mean += target(r, i) / size;
    squares += (weight[i] - mean) * (weight[i] - mean);
  }
  float* first = malloc(sizeof(weight));
  memcpy(first, weight, sizeof(weight));
  PMPI_Bcast(first, kParameters, MPI_FLOAT, 0, MPI_COMM_WORLD);
  same(first, weight, sizeof(weight), "the parameters of rank 0");
  free(first);
  if (rank == 0) printf("distance %.6f\nmoving %.6f\n", sqrt(squares / kParameters), moving());
  print_calls();
  MPI_Finalize();
  return 0;
}
