// SPDX-License-Identifier: Apache-2.0
//
// Times MPI_Allreduce of floats. Which algorithm is mpirun's business: --mca coll_tuned_use_dynamic_rules 1
// --mca coll_tuned_allreduce_algorithm 4 is Open MPI's ring.
#include <mpi.h>

#include "benchmarks/dense.h"

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  const terse::benchmarks::DenseArguments arguments = terse::benchmarks::ParseDenseArguments(argc, argv);
  terse::benchmarks::DenseRank rank;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &rank.size);
  rank.barrier = [] { MPI_Barrier(MPI_COMM_WORLD); };
  rank.sum = [](float* values, size_t n) {
    MPI_Allreduce(MPI_IN_PLACE, values, static_cast<int>(n), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  };
  rank.slowest = [](double ms) {
    double most = 0;
    MPI_Reduce(&ms, &most, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    return most;
  };
  const int status = terse::benchmarks::TimeDense(arguments, rank);
  MPI_Finalize();
  return status;
}
