// SPDX-License-Identifier: Apache-2.0
//
// What the programs share that time a dense all-reduce of other libraries: arguments, repetitions and the
// line of JSON that benchmarks/links.py reads.
#ifndef TERSE_BENCHMARKS_DENSE_H_
#define TERSE_BENCHMARKS_DENSE_H_

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <system_error>
#include <vector>

namespace terse::benchmarks {

// PROGRAM ELEMENTS REPETITIONS
struct DenseArguments {
  size_t elements = 0;
  int repetitions = 0;
};

// A number from 0 on; -1 for anything else.
inline int64_t ParseNumber(const char* text) {
  int64_t number = 0;
  const char* const end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, number);
  return error == std::errc() && stop == end && number >= 0 ? number : -1;
}

inline DenseArguments ParseDenseArguments(int argc, char** argv) {
  DenseArguments arguments;
  const int64_t elements = argc == 3 ? ParseNumber(argv[1]) : -1;
  const int64_t repetitions = argc == 3 ? ParseNumber(argv[2]) : -1;
  arguments.elements = static_cast<size_t>(elements);
  arguments.repetitions = static_cast<int>(repetitions);
  if (elements < 1 || elements > INT32_MAX || repetitions < 1 || repetitions > INT32_MAX) {
    std::fprintf(stderr, "usage: %s ELEMENTS REPETITIONS\n", argv[0]);
    std::exit(2);
  }
  return arguments;
}

// An all-reduce as a rank sees it.
struct DenseRank {
  int rank = 0;
  int size = 1;
  std::function<void()> barrier;
  std::function<void(float*, size_t)> sum;  // over all ranks, in place
  std::function<double(double)> slowest;    // the greatest over all ranks, at rank 0
};

// Rank 0 prints {"ms": MEDIAN}: of each repetition, after one that does not count, the time of the slowest
// rank. Returns the exit status: 1 when a sum is wrong.
inline int TimeDense(const DenseArguments& arguments, const DenseRank& rank) {
  std::vector<float> values(arguments.elements);
  std::vector<double> times;
  for (int repetition = 0; repetition <= arguments.repetitions; ++repetition) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 1000 + 1);
    rank.barrier();
    const auto begin = std::chrono::steady_clock::now();
    rank.sum(values.data(), values.size());
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - begin;
    const double ms = rank.slowest(taken.count());
    if (repetition > 0) times.push_back(ms);
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] == static_cast<float>(i % 1000 + 1) * static_cast<float>(rank.size)) continue;
      std::fprintf(stderr, "element %zu is %g\n", i, static_cast<double>(values[i]));
      return 1;
    }
  }
  std::sort(times.begin(), times.end());
  const size_t middle = times.size() / 2;
  const double median = times.size() % 2 == 1 ? times[middle] : (times[middle - 1] + times[middle]) / 2;
  if (rank.rank == 0) std::printf("{\"ms\": %.6f}\n", median);
  return 0;
}

}  // namespace terse::benchmarks

#endif  // TERSE_BENCHMARKS_DENSE_H_
