// SPDX-License-Identifier: Apache-2.0
//
// usage: plain_jobs mixed|solver|histogram ROUNDS
//
// Work that is no training, with plain MPI, for benchmarks/preload.sh: what it costs such a job to have the
// preload library under it.
//
//   mixed      sums of 1 to 262,144 floats, doubles and integers, and nothing else
//   solver     conjugate gradients on the Laplacian of a line: two sums of one double a round
//   histogram  a histogram of 65,536 integers, of new data in each round
//
// Rank 0 prints 'seconds S', of the rounds. What came out is checked; a wrong result ends with status 1.
#include <mpi.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

namespace {

int rank = 0, ranks = 1;

bool Mixed(int rounds) {
  constexpr int kSizes[] = {1, 64, 4096, 262144, 1000, 16384};
  std::vector<float> floats(262144);
  std::vector<double> doubles(4096);
  std::vector<int> integers(4096);
  bool right = true;
  for (int round = 0; round < rounds; ++round) {
    for (const int size : kSizes) {
      // Small whole numbers, so that a dense sum has but one right result.
      for (int i = 0; i < size; ++i) floats[i] = static_cast<float>((i + round) % 16);
      MPI_Allreduce(MPI_IN_PLACE, floats.data(), size, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      if (size == 1) right = right && floats[0] == static_cast<float>(round % 16 * ranks);
    }
    doubles.assign(doubles.size(), 0.5 * rank);
    MPI_Allreduce(MPI_IN_PLACE, doubles.data(), 4096, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    integers.assign(integers.size(), rank + round);
    MPI_Allreduce(MPI_IN_PLACE, integers.data(), 4096, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    right = right && doubles[17] == 0.25 * ranks * (ranks - 1) && integers[17] == ranks - 1 + round;
  }
  return right;
}

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  // Without the places for the neighbours' values.
  for (size_t i = 1; i + 1 < a.size(); ++i) sum += a[i] * b[i];
  MPI_Allreduce(MPI_IN_PLACE, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  return sum;
}

bool Solver(int rounds) {
  constexpr size_t kOwn = 40000;
  std::vector<double> x(kOwn + 2), r(kOwn + 2, 0.0), p(kOwn + 2), q(kOwn + 2);
  for (size_t i = 1; i <= kOwn; ++i) p[i] = r[i] = std::sin(static_cast<double>(i + rank * kOwn));
  const int left = rank > 0 ? rank - 1 : MPI_PROC_NULL, right = rank + 1 < ranks ? rank + 1 : MPI_PROC_NULL;
  const double first = Dot(r, r);
  double rr = first, least = first;
  for (int round = 0; round < rounds; ++round) {
    MPI_Sendrecv(&p[1], 1, MPI_DOUBLE, left, 0, &p[kOwn + 1], 1, MPI_DOUBLE, right, 0, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    MPI_Sendrecv(&p[kOwn], 1, MPI_DOUBLE, right, 1, &p[0], 1, MPI_DOUBLE, left, 1, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    for (size_t i = 1; i <= kOwn; ++i) q[i] = 2.01 * p[i] - p[i - 1] - p[i + 1];
    const double alpha = rr / Dot(p, q);
    for (size_t i = 1; i <= kOwn; ++i) {
      x[i] += alpha * p[i];
      r[i] -= alpha * q[i];
    }
    const double next = Dot(r, r);
    const double beta = next / rr;
    for (size_t i = 1; i <= kOwn; ++i) p[i] = r[i] + beta * p[i];
    rr = next;
    least = std::min(least, rr);
    // Solved: begin again, so that a round is always the same work.
    if (rr < 1e-20 * first) {
      x.assign(x.size(), 0.0);
      for (size_t i = 1; i <= kOwn; ++i) p[i] = r[i] = std::sin(static_cast<double>(i + rank * kOwn));
      rr = first;
    }
  }
  return rounds < 100 || least < 1e-2 * first;
}

bool Histogram(int rounds) {
  constexpr int kBins = 65536, kItems = 200000;
  std::vector<int> bins(kBins);
  uint32_t state = static_cast<uint32_t>(rank) + 1;
  bool right = true;
  for (int round = 0; round < rounds; ++round) {
    bins.assign(kBins, 0);
    for (int i = 0; i < kItems; ++i) {
      state = state * 1664525u + 1013904223u;
      ++bins[state >> 16];
    }
    MPI_Allreduce(MPI_IN_PLACE, bins.data(), kBins, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    int64_t all = 0;
    for (const int bin : bins) all += bin;
    right = right && all == int64_t{kItems} * ranks;
  }
  return right;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  const std::string_view job = argc == 3 ? argv[1] : "";
  const int64_t asked = argc == 3 ? std::strtol(argv[2], nullptr, 10) : 0;
  const int rounds = static_cast<int>(std::min(asked, int64_t{1'000'000'000}));
  if (rounds < 1 || (job != "mixed" && job != "solver" && job != "histogram")) {
    if (rank == 0) std::fputs("usage: plain_jobs mixed|solver|histogram ROUNDS\n", stderr);
    MPI_Finalize();
    return 2;
  }
  MPI_Barrier(MPI_COMM_WORLD);
  const double begin = MPI_Wtime();
  const bool right = job == "mixed" ? Mixed(rounds) : job == "solver" ? Solver(rounds) : Histogram(rounds);
  MPI_Barrier(MPI_COMM_WORLD);
  if (rank == 0) std::printf("seconds %.6f\n", MPI_Wtime() - begin);
  if (!right) std::fprintf(stderr, "plain_jobs: rank %d: a wrong result\n", rank);
  MPI_Finalize();
  return right ? 0 : 1;
}
