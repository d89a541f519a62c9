// SPDX-License-Identifier: Apache-2.0
//
// What every example does with MPI: start and end it, parse the same arguments on all ranks, and report
// an error once and clearly.
#ifndef TERSE_EXAMPLES_COMMON_MPI_SESSION_H_
#define TERSE_EXAMPLES_COMMON_MPI_SESSION_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <terse/terse.hpp>
#include <vector>

namespace terse::examples {

// MPI between MPI_Init and MPI_Finalize. Everything that uses MPI (a terse::Group, say) must end first.
// All methods but rank, size and is_root are collective.
class MpiSession {
 public:
  MpiSession(int* argc, char*** argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool is_root() const { return rank_ == 0; }

  // A group over all ranks. Empty YAML: TERSE_CONFIG and the TERSE_* environment.
  Group OpenGroup(const std::string& config_yaml) const;

  void BroadcastFromRoot(void* data, size_t bytes) const;
  // Each element becomes its mean over the ranks.
  void Average(std::vector<double>* values) const;
  // One value per rank, on all ranks.
  std::vector<uint64_t> Gather(uint64_t value) const;

 private:
  int rank_ = 0;
  int size_ = 1;
};

// Runs `body` between MPI_Init and MPI_Finalize and returns main's exit code: `body`'s own, 2 for wrong
// arguments, 1 for an exception, which is printed with its rank and ends the whole job. `body` is given
// the parsed `app`.
int RunUnderMpi(int argc, char** argv, CLI::App* app, const std::function<int(const MpiSession&)>& body);

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_COMMON_MPI_SESSION_H_
