// SPDX-License-Identifier: Apache-2.0
//
// What a group over MPI and its operations share: two private duplicates of the job's communicator, who
// the peers are, and whether the group is broken. Only PMPI names are called, so that a preloaded MPI
// wrapper does not see this traffic.
#ifndef TERSE_TRANSPORT_MPI_COMMUNICATOR_H_
#define TERSE_TRANSPORT_MPI_COMMUNICATOR_H_

#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "transport/mpi/process.h"
#include "transport/transport.h"

namespace terse::transport {

// OK for MPI_SUCCESS; otherwise INTERNAL with MPI's own text: "PMPI_Isend to rank 2: <text>".
absl::Status MpiStatus(int code, std::string_view what);

// Within its scope the calls that complete requests return their errors. MPICH reports those to the error
// handler of MPI_COMM_WORLD, which by default ends the process, and not to that of the communicator that the
// message came by; Open MPI does the latter. The job's handler is put back.
class ScopedErrorsReturn {
 public:
#if defined(OPEN_MPI)
  ScopedErrorsReturn() {}  // NOLINT(modernize-use-equals-default): variables of it are used
#else
  ScopedErrorsReturn() {
    PMPI_Comm_get_errhandler(MPI_COMM_WORLD, &jobs_);
    PMPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  }
  ~ScopedErrorsReturn() {
    PMPI_Comm_set_errhandler(MPI_COMM_WORLD, jobs_);
    PMPI_Errhandler_free(&jobs_);
  }
#endif
  ScopedErrorsReturn(const ScopedErrorsReturn&) = delete;
  ScopedErrorsReturn& operator=(const ScopedErrorsReturn&) = delete;

 private:
#if !defined(OPEN_MPI)
  MPI_Errhandler jobs_ = MPI_ERRHANDLER_NULL;
#endif
};

class Communicator {
 public:
  // Collective over `base`. Bounded by `timeout` but for what MPI does inside its own calls.
  static absl::StatusOr<std::shared_ptr<Communicator>> Duplicate(MPI_Comm base,
                                                                 std::chrono::milliseconds timeout);
  // Frees the duplicates, unless the group is broken (its requests are still with MPI) or MPI is already
  // finalized.
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  MPI_Comm messages() const { return messages_; }        // the caller's tags
  MPI_Comm collectives() const { return collectives_; }  // tags are NextTag's
  int rank() const { return rank_; }
  int size() const { return size_; }
  absl::Span<const int> nodes() const { return nodes_; }
  std::string Describe(int rank) const;

  // A tag for the messages of the next collective. Numbers come again after 2^15 collectives; MPI's
  // order between equal tags keeps even those apart.
  int NextTag() { return static_cast<int>(collective_number_++ % (1u << 15)); }

  // No rank minds how long a wait takes: its timeout is a day or more, as the preload library has it. MPI's
  // blocking all-reduce, which is faster than the other and does not match it, may be used then.
  bool may_block() const { return may_block_; }

  // True for a peer of this machine whose process has ended.
  bool Gone(int peer) const;

  const absl::Status& broken() const { return broken_; }
  // The first reason stays and is given back.
  absl::Status Break(absl::Status reason);

  // Memory for one operation, not initialized. What is given back is kept for the next.
  struct Scratch {
    std::unique_ptr<std::byte[]> data;
    size_t bytes = 0;
  };
  Scratch TakeScratch(size_t bytes);
  void GiveBack(Scratch scratch);

  void CountSent(uint64_t bytes) { bytes_sent_ += bytes; }
  uint64_t bytes_sent() const { return bytes_sent_; }

 private:
  Communicator() = default;
  absl::Status MeetPeers(std::chrono::milliseconds timeout);

  MPI_Comm messages_ = MPI_COMM_NULL;
  MPI_Comm collectives_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 0;
  bool may_block_ = false;
  uint64_t collective_number_ = 0;
  uint64_t bytes_sent_ = 0;
  absl::Status broken_;
  std::vector<ProcessIdentity> peers_;
  std::vector<bool> watched_;  // Gone can tell
  std::vector<int> nodes_;
  Scratch scratch_;  // the largest that was given back
};

// True when a group of this process is or was broken: MPI_Finalize would then wait for the dead.
bool AnyCommunicatorBroken();

}  // namespace terse::transport

#endif  // TERSE_TRANSPORT_MPI_COMMUNICATOR_H_
