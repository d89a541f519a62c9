// SPDX-License-Identifier: Apache-2.0
//
// The observing report as JSON: one rank's, and those of several ranks merged into the job's. Its keys are
// described in docs/preload.md.
#ifndef TERSE_RUNTIME_INTERCEPT_REPORT_H_
#define TERSE_RUNTIME_INTERCEPT_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/intercept/eligibility.h"
#include "runtime/intercept/hang/event.h"
#include "runtime/intercept/signature.h"
#include "runtime/intercept/traffic.h"

namespace terse::intercept {

inline constexpr int32_t kReportVersion = 1;

// What a rank knows of itself besides its traffic.
struct RankFacts {
  int32_t rank = 0;
  int32_t world_size = 1;
  std::string abi;      // "openmpi", "mpich"
  std::string mpi;      // as the library calls itself
  std::string program;  // its file
  Rules rules;
  double seconds = 0;  // since the first call that was seen, or MPI_Init
  double seconds_per_tick = 0;
  std::vector<HangEvent> hangs;  // some of hang_count
  int64_t hang_count = 0;
  std::string forensics_trouble;  // why this rank finds no hangs, or empty
};

std::string RankReport(const RankFacts& facts, const Ledger& ledger, const Vocabulary& vocabulary);

// `reports` are those of the job's ranks, in the order of ranks, at least one. Communicators of the same
// ranks with the same calls become one row. Texts that are no report are left out.
std::string MergeReports(const std::vector<std::string>& reports);

// Writes `text` to `path` whole or not at all. What went wrong, or empty.
std::string WriteWhole(const std::string& path, const std::string& text);

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_REPORT_H_
