// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/plan_command.h"

#include <cstdio>
#include <memory>
#include <string>

#include "runtime/cli/exit_code.h"
#include "runtime/cli/input_file.h"
#include "terse/terse.hpp"

namespace terse::cli {
namespace {

void Solve(const std::string& file) {
  const std::string problem = ReadInput(file);
  const std::string where = file == "-" ? "standard input" : file;
  // It would end the text.
  if (problem.find('\0') != std::string::npos)
    throw CommandError(kFailure, where + ": not JSON: a zero byte");
  char* text = nullptr;
  const terse_status_t status = terse_plan_solve(problem.c_str(), &text);
  if (status != TERSE_OK) {
    throw CommandError(status == TERSE_INFEASIBLE ? kInfeasible : kFailure,
                       where + ": " + terse_last_error());
  }
  const std::unique_ptr<char, void (*)(char*)> owner(text, terse_string_free);
  std::printf("%s\n", text);
}

}  // namespace

void AddPlanCommand(CLI::App& app, std::function<void()>* run) {
  CLI::App* plan = app.add_subcommand("plan", "What each tensor is compressed by, and how that is chosen");
  plan->require_subcommand(1);

  const auto file = std::make_shared<std::string>();
  CLI::App* solve = plan->add_subcommand(
      "solve",
      "Choose one candidate for each layer, so that errors keep a budget and sizes are least, as L-GreCo's\n"
      "controller does. FILE ('-': standard input) has\n"
      "  {\"error\": [[...]], \"size\": [[...]], \"budget\": E, \"metric\": \"sum\", \"ready\": [...]}\n"
      "with error[l][k] and size[l][k] by layer and candidate. metric may be sum_squared: squares of errors "
      "are\n"
      "added up, and the budget is of that. With ready, by layer, what is made least is the finish time:\n"
      "f = max(f, ready[l]) + size[l][k] over layers in order. \"uniform\": [...] may name a choice that "
      "the\n"
      "answer must not be worse than. Prints\n"
      "  {\"choice\": [...], \"size\": S, \"error\": E, \"lower_bound\": B, \"finish\": F, \"gap\": G, "
      "\"way\": W}\n"
      "where no choice at all can be below B, and G is how far the answer is above it, as a part of it.");
  solve->add_option("file", *file, "The problem")->type_name("FILE")->required();
  solve->footer(
      "Exit codes: 0 solved, 1 no such file or problem, 2 usage, 3 no choice is within the budget.");
  solve->callback([run, file] { *run = [file] { Solve(*file); }; });
}

}  // namespace terse::cli
