// SPDX-License-Identifier: Apache-2.0
//
// usage: intercept_overhead [BATCHES]
//
// What a call that passes through a preload library costs: all-reduces of one float on a communicator of
// one rank, by their MPI_ name and by their PMPI_ name, in batches that take turns. Medians, in
// nanoseconds a call, of the first rank. Run under LD_PRELOAD; without it both names are the same and the
// difference is noise.
#include <dlfcn.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

constexpr int kCallsInABatch = 2000;
int rank = 0;

template <typename Call>
double NanosecondsPerCall(const Call& call) {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kCallsInABatch; ++i) call();
  const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - begin;
  return time.count() / kCallsInABatch;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

template <typename Shimmed, typename Bare>
void Measure(const char* name, int batches, const Shimmed& shimmed, const Bare& bare) {
  std::vector<double> with;
  std::vector<double> without;
  std::vector<double> difference;
  for (int i = 0; i < batches; ++i) {
    with.push_back(NanosecondsPerCall(shimmed));
    without.push_back(NanosecondsPerCall(bare));
    difference.push_back(with.back() - without.back());
  }
  if (rank != 0) return;
  std::printf("%-12s MPI_ %7.1f ns   PMPI_ %7.1f ns   difference %6.1f ns\n", name, Median(with),
              Median(without), Median(difference));
}

}  // namespace

int main(int argc, char** argv) {
  const int batches = argc > 1 ? std::max(std::atoi(argv[1]), 1) : 201;
  MPI_Init(&argc, &argv);
  Dl_info info;
  void* const function = dlsym(RTLD_DEFAULT, "MPI_Allreduce");
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank == 0) std::printf("MPI_Allreduce is of %s\n", dladdr(function, &info) != 0 ? info.dli_fname : "?");
  float in = 1;
  float out = 0;
  Measure(
      "one call", batches, [&] { MPI_Allreduce(&in, &out, 1, MPI_FLOAT, MPI_SUM, MPI_COMM_SELF); },
      [&] { PMPI_Allreduce(&in, &out, 1, MPI_FLOAT, MPI_SUM, MPI_COMM_SELF); });
  MPI_Comm comm;
  MPI_Comm_dup(MPI_COMM_SELF, &comm);
  double in64[5] = {};
  double out64[5] = {};
  int count = 0;
  int other = 0;
  Measure(
      "five kinds", batches,
      [&] { MPI_Allreduce(in64, out64, count = count % 5 + 1, MPI_DOUBLE, MPI_SUM, comm); },
      [&] { PMPI_Allreduce(in64, out64, other = other % 5 + 1, MPI_DOUBLE, MPI_SUM, comm); });
  MPI_Comm_free(&comm);
  // No period: every call is looked for among the others.
  MPI_Comm_dup(MPI_COMM_SELF, &comm);
  unsigned state = 1;
  unsigned bare_state = 1;
  const auto next = [](unsigned* s) {
    return static_cast<int>((*s = *s * 1664525u + 1013904223u) >> 30) + 1;
  };
  Measure(
      "no period", batches, [&] { MPI_Allreduce(in64, out64, next(&state), MPI_DOUBLE, MPI_SUM, comm); },
      [&] { PMPI_Allreduce(in64, out64, next(&bare_state), MPI_DOUBLE, MPI_SUM, comm); });
  MPI_Comm_free(&comm);
  MPI_Finalize();
  return 0;
}
