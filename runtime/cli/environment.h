// SPDX-License-Identifier: Apache-2.0
//
// The process's environment: settings reach the library through it, and launchers leave their marks in
// it. Changing it is safe only while the process has one thread; the command does so between its
// parallel parts.
#ifndef TERSE_RUNTIME_CLI_ENVIRONMENT_H_
#define TERSE_RUNTIME_CLI_ENVIRONMENT_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace terse::cli {

// Sets variables for its lifetime and puts the old values back afterwards.
class ScopedEnvironment {
 public:
  using Variables = std::vector<std::pair<std::string, std::string>>;  // name, value

  explicit ScopedEnvironment(const Variables& variables);
  ~ScopedEnvironment();
  ScopedEnvironment(const ScopedEnvironment&) = delete;
  ScopedEnvironment& operator=(const ScopedEnvironment&) = delete;

 private:
  std::vector<std::pair<std::string, std::optional<std::string>>> before_;
};

std::optional<std::string> GetEnvironment(const std::string& name);

// "topk.density" -> "TERSE_TOPK_DENSITY".
std::string EnvironmentName(std::string_view key);

// What an MPI launcher (mpirun of Open MPI or MPICH, srun) says of this process.
struct Launcher {
  bool present = false;
  int rank = 0;
  int ranks_on_host = 1;
};
Launcher DetectLauncher();

// Bytes that can be allocated on this machine without swapping; 0 when unknown.
double AvailableMemory();

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_ENVIRONMENT_H_
