// SPDX-License-Identifier: Apache-2.0
//
// The ranks of a benchmark that live in this process: one under an MPI launcher, or all of them, as
// threads, over transport inproc.
#ifndef TERSE_RUNTIME_CLI_BENCH_WORLD_H_
#define TERSE_RUNTIME_CLI_BENCH_WORLD_H_

#include <functional>
#include <string>
#include <vector>

#include "runtime/cli/settings.h"
#include "terse/terse.hpp"

namespace terse::cli {

class BenchWorld {
 public:
  // `file` as in ResolveConfig. threads > 0: that many ranks as threads, over inproc. threads == 0: one
  // rank, over the configured transport.
  BenchWorld(const std::string& file, int threads);

  const std::string& file() const { return file_; }
  int local_ranks() const { return threads_ > 0 ? threads_ : 1; }

  // Calls body(i) for each local rank, at the same time, and waits for all. When some throw, the error
  // that explains the others is thrown on (a rank that fails makes its peers report a lost rank).
  void ForEachRank(const std::function<void(int)>& body) const;

  // Opens one group, as all local ranks see it, with `settings` over file and environment. Call from the
  // process's only thread.
  std::vector<Group> Open(const std::vector<Setting>& settings);

 private:
  std::string file_;
  int threads_;
  int opened_ = 0;
};

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_BENCH_WORLD_H_
