// SPDX-License-Identifier: Apache-2.0
//
// The results of `terse bench` for people and for programs (docs/cli.md has the JSON's fields).
#ifndef TERSE_RUNTIME_CLI_BENCH_REPORT_H_
#define TERSE_RUNTIME_CLI_BENCH_REPORT_H_

#include <string>
#include <vector>

#include "runtime/cli/bench_measure.h"

namespace terse::cli {

// A table with a line of headings, and below it what a reader must know to read the rows right: tensors
// that went dense although a codec was asked for, and why.
std::string FormatTable(const std::vector<BenchResult>& results, const BenchOptions& options);

std::string FormatJson(const std::vector<BenchResult>& results, const BenchOptions& options);

// 25600000 -> "25.6 M", 840 -> "840"; powers of ten.
std::string FormatCount(double count);
// 102400000 -> "102.4 MB"; powers of ten.
std::string FormatBytes(double bytes);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_BENCH_REPORT_H_
