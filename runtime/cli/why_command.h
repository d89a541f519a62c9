// SPDX-License-Identifier: Apache-2.0
//
// `terse why`: the path that each tensor or call took, and the reason, out of a report.
#ifndef TERSE_RUNTIME_CLI_WHY_COMMAND_H_
#define TERSE_RUNTIME_CLI_WHY_COMMAND_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace terse::cli {

// Adds the subcommand to `app` and sets *run to what was asked for once the line is parsed.
void AddWhyCommand(CLI::App& app, std::function<void()>* run);

// A tensor of a group's report (docs/report.md), or a call of a job's that was observed (docs/preload.md).
struct PathRow {
  std::string name;
  double elements = 0;
  double calls = 0;
  double call_ms = 0;     // mean
  double times_less = 0;  // bytes of dense / bytes sent; 0: not known
  std::string path;
  std::string reason;
  std::vector<std::string> notes;
};

struct Paths {
  std::string title;
  std::vector<PathRow> rows;
  std::vector<std::string> notes;  // of the whole
};

// Of the JSON of a report; rows whose names match the shell pattern `match`. std::runtime_error: it is none.
Paths ReadPaths(std::string_view report, const std::string& match);

// For people, and as JSON (docs/cli.md).
std::string PathsTable(const Paths& paths);
std::string PathsJson(const Paths& paths);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_WHY_COMMAND_H_
