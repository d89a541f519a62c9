// SPDX-License-Identifier: Apache-2.0
//
// Measures one configuration at one size, against the dense all-reduce of the same transport in the same
// run. Repetitions are interleaved (dense and compressed take turns in going first) and start at a
// barrier; a repetition's time is that of the slowest rank; what is reported is the median.
#ifndef TERSE_RUNTIME_CLI_BENCH_MEASURE_H_
#define TERSE_RUNTIME_CLI_BENCH_MEASURE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/cli/bench_world.h"
#include "runtime/cli/settings.h"

namespace terse::cli {

struct BenchOptions {
  int repeat = 5;
  int warmup = 2;  // repetitions before the first that counts
  uint64_t seed = 1;
  bool dense = true;  // measure the dense all-reduce as well
  std::string trace;  // folder for the compressed exchanges' traces; empty: none
};

// One row of the result. Times in ms.
struct BenchResult {
  std::string name;
  std::vector<Setting> settings;
  std::string transport;
  std::string method;
  std::string compressor;  // as configured
  std::string codec;       // what the plan chose for this tensor
  std::string exchange;
  std::string reason;
  int32_t world_size = 0;
  int64_t elements = 0;
  std::optional<double> dense_ms;  // none without BenchOptions::dense, as are what follows from it
  double terse_ms = 0;
  double encode_ms = 0;  // of rank 0, mean over the repetitions
  double exchange_ms = 0;
  double decode_ms = 0;
  double bytes_sent = 0;  // per repetition, of the rank that sent most, headers included
  double ring_bytes = 0;  // 2 (N-1)/N of the fp32 gradient: what a dense ring sends per rank
  // Largest over the repetitions of |compressed - dense|_2 / |dense|_2. None when the method does not
  // return the mean (dgc, onebit_adam).
  std::optional<double> relative_error;

  std::optional<double> speedup() const {
    return dense_ms && terse_ms > 0 ? std::optional<double>(*dense_ms / terse_ms) : std::nullopt;
  }
  // None with one rank, where nothing is sent.
  std::optional<double> ratio() const {
    return bytes_sent > 0 ? std::optional<double>(ring_bytes / bytes_sent) : std::nullopt;
  }
};

// Collective over all ranks of the run. The result is complete in the process that holds rank 0, and
// empty elsewhere. Throws terse::Error.
std::optional<BenchResult> Measure(BenchWorld& world, const BenchCase& bench_case, int64_t elements,
                                   const BenchOptions& options);

// Largest of `sizes` (ascending) whose buffers and those of the engine fit the memory of every rank's
// host; at least the first. Collective over all ranks of the run.
std::vector<int64_t> KeepWhatFits(BenchWorld& world, const std::vector<int64_t>& sizes, int ranks_on_host);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_BENCH_MEASURE_H_
