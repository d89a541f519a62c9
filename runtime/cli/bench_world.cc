// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/bench_world.h"

#include <exception>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>

#include "runtime/cli/exit_code.h"

namespace terse::cli {
namespace {

// The file's text with our own rank in place of one that it may name. Ranks differ per thread, so they
// cannot come from the environment.
std::string WithRank(const std::string& text, int rank) {
  std::string out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("rank:")) out += line + "\n";
  }
  return out + "rank: " + std::to_string(rank) + "\n";
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw CommandError(kConfigInvalid, "cannot read the configuration file '" + path + "'");
  return {std::istreambuf_iterator<char>(in), {}};
}

bool IsConsequence(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    return error.status() == TERSE_UNAVAILABLE || error.status() == TERSE_TIMEOUT;
  } catch (...) {
    return false;
  }
}

}  // namespace

BenchWorld::BenchWorld(const std::string& file, int threads) : file_(file), threads_(threads) {
  if (file_.empty()) file_ = GetEnvironment("TERSE_CONFIG").value_or("");
}

void BenchWorld::ForEachRank(const std::function<void(int)>& body) const {
  if (threads_ == 0) {
    body(0);
    return;
  }
  std::vector<std::exception_ptr> failures(static_cast<size_t>(threads_));
  {
    std::vector<std::jthread> ranks;
    for (int rank = 0; rank < threads_; ++rank) {
      ranks.emplace_back([&body, &failures, rank] {
        try {
          body(rank);
        } catch (...) {
          failures[static_cast<size_t>(rank)] = std::current_exception();
        }
      });
    }
  }
  std::exception_ptr first;
  for (const std::exception_ptr& failure : failures) {
    if (failure && (!first || (IsConsequence(first) && !IsConsequence(failure)))) first = failure;
  }
  if (first) std::rethrow_exception(first);
}

std::vector<Group> BenchWorld::Open(const std::vector<Setting>& settings) {
  ScopedEnvironment::Variables variables = ToEnvironment(settings);
  std::string text;
  if (threads_ > 0) {
    if (!file_.empty()) text = ReadFile(file_);
    variables.insert(variables.end(), {{"TERSE_TRANSPORT_NAME", "inproc"},
                                       {"TERSE_TRANSPORT_HUB", "terse-bench-" + std::to_string(opened_)},
                                       {"TERSE_WORLD_SIZE", std::to_string(threads_)}});
  } else if (!file_.empty()) {
    variables.emplace_back("TERSE_CONFIG", file_);
  }
  ++opened_;
  const ScopedEnvironment environment(variables);
  std::vector<Group> groups;
  for (int i = 0; i < local_ranks(); ++i) groups.emplace_back(nullptr);
  ForEachRank([&](int rank) {
    groups[static_cast<size_t>(rank)] = Group(threads_ > 0 ? WithRank(text, rank) : std::string());
  });
  return groups;
}

}  // namespace terse::cli
