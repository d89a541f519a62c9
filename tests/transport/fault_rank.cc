// SPDX-License-Identifier: Apache-2.0
//
// Run by mpi_fault_test under mpirun: in the middle of its work the last rank dies or falls silent, and
// the others print how their group reports it. Arguments: transport, kill|silence|abandon, the operation.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "transport/loader.h"

namespace terse::transport {
namespace {

using std::chrono::milliseconds;

class Job {
 public:
  explicit Job(Group& group)
      : group_(group),
        floats_(1 << 18, 1.0f),
        texts_(static_cast<size_t>(group.size()), std::string(kBytes, ' ')) {
    for (std::string& text : texts_) to_.push_back({text.data(), text.size()});
    lengths_.resize(to_.size());
  }

  OperationOr Start(const std::string& operation) {
    if (operation == "allreduce") {
      return group_.Allreduce(floats_.data(), floats_.data(), floats_.size(), wire::DType::kFloat32, {});
    }
    if (operation == "barrier") return group_.Barrier();
    return group_.Allgatherv({own_.data(), own_.size()}, to_, absl::MakeSpan(lengths_), {});
  }

 private:
  static constexpr size_t kBytes = 1 << 20;
  Group& group_;
  std::vector<float> floats_;
  std::string own_ = std::string(kBytes, 'x');
  std::vector<std::string> texts_;
  std::vector<Buffer> to_;
  std::vector<size_t> lengths_;
};

int Run(const std::string& transport, const std::string& fault, const std::string& operation) {
  auto group = OpenGroup(transport, {});
  if (!group.ok()) {
    std::fprintf(stderr, "%s\n", group.status().ToString().c_str());
    return 2;
  }
  Job job(**group);
  OperationOr healthy = job.Start(operation);
  absl::Status status = healthy.ok() ? (*healthy)->Wait(std::chrono::seconds(60)) : healthy.status();
  if (!status.ok()) {
    std::fprintf(stderr, "before the fault: %s\n", status.ToString().c_str());
    return 2;
  }
  const bool culprit = (*group)->rank() == (*group)->size() - 1;
  if (culprit && fault == "kill") raise(SIGKILL);
  if (culprit && fault == "silence") {
    sleep(9);  // outlives the others' patience
    _exit(0);
  }
  OperationOr doomed = job.Start(operation);
  if (fault == "abandon") {
    doomed = absl::UnknownError("dropped");
    status = (*group)->Barrier().status();
  } else {
    // A dead rank is found long before this patience ends; a silent one by its end alone.
    const milliseconds patience = fault == "kill" ? milliseconds(60000) : milliseconds(2500);
    status = doomed.ok() ? (*doomed)->Wait(patience) : doomed.status();
  }
  const bool again = (*group)->Barrier().status() == status;
  // One write, so that the ranks' lines do not mix.
  const std::string line = "survivor " + std::to_string((*group)->rank()) + ": " + status.ToString() +
                           (again ? " [stays broken]" : "") + "\n";
  const bool written = write(STDOUT_FILENO, line.data(), line.size()) >= 0;
  // A slower survivor must not find this one gone before it has found the culprit.
  if (fault != "abandon") sleep(3);
  return written ? 0 : 1;
}

}  // namespace
}  // namespace terse::transport

// Returns from main: destroying a broken group and leaving the process must not hang either.
int main(int argc, char** argv) { return argc == 4 ? terse::transport::Run(argv[1], argv[2], argv[3]) : 2; }
