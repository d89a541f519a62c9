// SPDX-License-Identifier: Apache-2.0
//
// The `terse` command. Data goes to stdout, diagnostics to stderr; exit codes are those of exit_code.h.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <string_view>

#include "runtime/cli/advise_command.h"
#include "runtime/cli/bench_command.h"
#include "runtime/cli/config_command.h"
#include "runtime/cli/console_command.h"
#include "runtime/cli/doctor_command.h"
#include "runtime/cli/exit_code.h"
#include "runtime/cli/job.h"
#include "runtime/cli/plan_command.h"
#include "runtime/cli/run_command.h"
#include "runtime/cli/state_command.h"
#include "runtime/cli/why_command.h"
#include "terse/terse.hpp"

namespace terse::cli {
namespace {

void ExitInterrupted(int /*signal*/) { _exit(kInterrupted); }

std::string VersionText() {
  const int32_t version = terse_version();
  return "terse " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

int Fail(ExitCode code, const char* what) {
  std::fprintf(stderr, "terse: %s\n", what);
  return code;
}

int Main(int argc, char** argv) {
  try {
    RunConsoleIfAsked(argc, argv);
  } catch (const CommandError& error) {
    return Fail(error.code(), error.what());
  }
  signal(SIGINT, ExitInterrupted);

  // What is behind -- is a user's job. The parser would take the mark for the end of a list of values.
  char** const end = argv + argc;
  const std::string_view first = argc > 1 ? argv[1] : "";
  char** const mark = first == "advise" || first == "doctor" || first == "run"
                          ? std::find(argv, end, std::string_view("--"))
                          : end;
  const Words job(mark == end ? end : mark + 1, end);
  argc = static_cast<int>(mark - argv);

  CLI::App app("Terse: compressed gradient exchange. This command inspects and measures it.", "terse");
  app.set_version_flag("--version", VersionText());
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 success, 1 failure, 2 usage, 3 cannot reach a peer (terse plan solve: infeasible), 4 "
      "configuration invalid, "
      "5 terse doctor found something wrong, 130 interrupted.");
  std::function<void()> run;
  AddAdviseCommand(app, job, &run);
  AddConfigCommand(app, &run);
  AddBenchCommand(app, &run);
  AddDoctorCommand(app, job, &run);
  AddPlanCommand(app, &run);
  AddRunCommand(app, job, &run);
  AddStateCommand(app, &run);
  AddWhyCommand(app, &run);
  ListConsoleCommands(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kSuccess : kUsage;
  }
  try {
    run();
  } catch (const Error& error) {
    return Fail(FromStatus(error.status()), error.what());
  } catch (const CommandError& error) {
    return Fail(error.code(), error.what());
  } catch (const std::exception& error) {
    return Fail(kFailure, error.what());
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) return Fail(kFailure, "cannot write to stdout");
  return kSuccess;
}

}  // namespace
}  // namespace terse::cli

int main(int argc, char** argv) { return terse::cli::Main(argc, argv); }
