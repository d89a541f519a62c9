// SPDX-License-Identifier: Apache-2.0
//
// A set of MPI requests as one transport operation, and the one wait loop of this plug-in.
#ifndef TERSE_TRANSPORT_MPI_OPERATION_H_
#define TERSE_TRANSPORT_MPI_OPERATION_H_

#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/mpi/communicator.h"
#include "transport/transport.h"

namespace terse::transport {

class MpiOperation final : public Operation {
 public:
  explicit MpiOperation(std::shared_ptr<Communicator> communicator);

  // Abandons what is still under way: receives are cancelled; sends and MPI's own collectives cannot be,
  // so their memory must stay until the process ends (docs/transports.md).
  ~MpiOperation() override;

  // Start one message each. An error leaves the operation to be destroyed.
  absl::Status Send(MPI_Comm comm, int peer, int tag, ConstBuffer from);
  absl::Status Receive(MPI_Comm comm, int peer, int tag, Buffer to, size_t* length, bool exact = false);

  // Takes over a request of one of MPI's own collectives, which waits for nobody in particular.
  void AddCollective(MPI_Request request);

  // A copy of `bytes` bytes that lives as long as MPI may read it. Once for an operation.
  const std::byte* Copy(const void* from, size_t bytes);

  // An error that this operation will report when it ends.
  void Fail(absl::Status status) { failure_.Update(std::move(status)); }

  absl::StatusOr<bool> Test() override;
  absl::Status Wait(std::chrono::milliseconds patience) override;

 private:
  static constexpr int kEverybody = -1;

  // What request number i is for.
  struct Part {
    int peer = kEverybody;
    bool receive = false;
    bool exact = false;  // a shorter message is an error too
    size_t capacity = 0;
    size_t* length = nullptr;
  };

  // Ends what has ended; gives the number of requests that did.
  absl::StatusOr<int> Progress();
  absl::Status Complete(const Part& part, const MPI_Status& status, int error);
  absl::Status Break(absl::Status reason);
  void Restart();  // a sign of life
  // UNAVAILABLE when a peer that is waited for has ended; looks only now and then.
  absl::Status LookForTheGone();
  std::vector<int> Missing() const;  // the ranks still waited for
  std::string DescribeMissing() const;

  const std::shared_ptr<Communicator> communicator_;
  Communicator::Scratch scratch_;
  std::vector<MPI_Request> requests_;
  std::vector<Part> parts_;
  int pending_ = 0;
  bool streaming_ = false;  // some message may come in more than one piece
  absl::Status failure_;    // the operation goes on to its end and then reports this
  absl::Status broken_;     // the operation cannot end
  std::chrono::steady_clock::time_point last_sign_;
  std::chrono::steady_clock::time_point next_look_;
  int gone_ = kEverybody;  // a peer that was found to have ended, when its last words are awaited
  // For MPI_Testsome.
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;
};

}  // namespace terse::transport

#endif  // TERSE_TRANSPORT_MPI_OPERATION_H_
