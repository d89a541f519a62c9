// SPDX-License-Identifier: Apache-2.0
//
// `terse top`: jobs, or the tensors of one, again and again; with keys where there is a terminal.
#ifndef TERSE_RUNTIME_CLI_CONSOLE_TOP_H_
#define TERSE_RUNTIME_CLI_CONSOLE_TOP_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/cli/console/connection.h"
#include "runtime/cli/console/views.h"

namespace terse::cli {

// What there is to show.
struct TopData {
  std::vector<v1::Job> jobs;        // of the list
  std::optional<v1::Job> job;       // of the job that is looked into
  std::vector<v1::Tensor> tensors;  // its
};

// What a key asks the controller for.
struct TopCommand {
  enum class Kind { kPin, kUnpin, kPause, kDense, kBudget } kind = Kind::kPin;
  std::string job;
  std::string tensor;
  std::string text;   // kPin: the setting
  double number = 0;  // kBudget
  bool on = false;    // kPause, kDense
};

// The view's state: what keys do, and what is on the screen. Without a terminal or a controller in it.
class TopView {
 public:
  explicit TopView(std::string job = "", TensorOrder order = TensorOrder::kElements)
      : job_(std::move(job)), order_(order) {}

  // The job that is looked into; empty: the list of all.
  const std::string& job() const { return job_; }
  bool done() const { return done_; }

  // A key: a character, or "up", "down", "enter", "escape", "backspace". The command that it asks for.
  std::optional<TopCommand> Key(std::string_view key, const TopData& data);
  // What the last command came to.
  void Say(std::string what) { said_ = std::move(what); }

  // Lines of the screen, at most `rows`, none wider than `columns`; the selected one is marked by '>'.
  Lines Screen(const TopData& data, const std::string& address, size_t rows, size_t columns) const;

 private:
  std::optional<TopCommand> KeyOfInput(std::string_view key);
  std::vector<std::string> Selectable(const TopData& data) const;

  std::string job_;
  TensorOrder order_;
  size_t selected_ = 0;
  bool done_ = false;
  bool help_ = false;
  std::string said_;
  // A line that is being typed.
  std::optional<TopCommand> asking_;
  std::string input_;
};

struct TopOptions {
  std::string job;
  TensorOrder order = TensorOrder::kElements;
  double seconds = 1;  // between two looks
  bool once = false;   // or when standard output is no terminal
};

// Runs until the user has enough. Throws CommandError; a controller that is lost later is waited for.
void RunTop(Connection* connection, const TopOptions& options);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_CONSOLE_TOP_H_
