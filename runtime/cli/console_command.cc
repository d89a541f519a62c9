// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/console_command.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <string>
#include <string_view>

#include "runtime/cli/exit_code.h"

namespace terse::cli {
namespace {

struct Listed {
  const char* name;
  const char* what;
};
constexpr Listed kCommands[] = {
    {"top", "Watch the jobs of a terse-controller and their tensors"},
    {"job",
     "List the jobs of a terse-controller, and command them: budget, pause, resume, dense, remove, audit"}};
constexpr Listed kOfPlan[] = {{"show", "The plan of a job that runs: what each tensor goes by, and why"},
                              {"diff", "What is other in one plan than in another"},
                              {"history", "All plans of a job: when, what changed, and why"},
                              {"pin", "Give a tensor this setting, whatever the policy says"},
                              {"unpin", "Let the policy choose for the tensor again"}};

template <size_t N>
bool IsOneOf(const Listed (&list)[N], std::string_view name) {
  return std::any_of(std::begin(list), std::end(list), [&](const Listed& one) { return name == one.name; });
}

}  // namespace

void RunConsoleIfAsked(int argc, char** argv) {
  const std::string_view first = argc > 1 ? argv[1] : "";
  const bool of_plan = first == "plan" && argc > 2 && IsOneOf(kOfPlan, argv[2]);
  if (!of_plan && !IsOneOf(kCommands, first)) return;
  std::error_code error;
  const std::filesystem::path console =
      std::filesystem::canonical("/proc/self/exe", error).parent_path() / "terse-console";
  execv(console.c_str(), argv);
  throw CommandError(kFailure, "terse " + std::string(first) + " needs " + console.string() + ": " +
                                   std::strerror(errno) + "; install it, or build with gRPC");
}

void ListConsoleCommands(CLI::App& app) {
  for (const Listed& one : kCommands) app.add_subcommand(one.name, one.what);
  CLI::App* const plan = app.get_subcommand("plan");
  for (const Listed& one : kOfPlan) plan->add_subcommand(one.name, one.what);
}

}  // namespace terse::cli
