// SPDX-License-Identifier: Apache-2.0
#include "transport/mpi/communicator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "transport/mpi/operation.h"

namespace terse::transport {
namespace {

bool g_any_broken = false;

constexpr std::chrono::hours kNoDeadline(24);

bool Finalized() {
  int finalized = 0;
  PMPI_Finalized(&finalized);
  return finalized != 0;
}

// A duplicate of `base` by the bounded way.
absl::StatusOr<MPI_Comm> DuplicateWithin(MPI_Comm base, const std::shared_ptr<Communicator>& waiter,
                                         std::chrono::milliseconds timeout) {
  MPI_Comm duplicate = MPI_COMM_NULL;
  MPI_Request request = MPI_REQUEST_NULL;
  absl::Status status = MpiStatus(PMPI_Comm_idup(base, &duplicate, &request), "PMPI_Comm_idup");
  if (!status.ok()) return status;
  MpiOperation operation(waiter);
  operation.AddCollective(request);
  status = operation.Wait(timeout);
  if (status.ok()) {
    status = MpiStatus(PMPI_Comm_set_errhandler(duplicate, MPI_ERRORS_RETURN), "PMPI_Comm_set_errhandler");
  }
  if (!status.ok()) return status;
  return duplicate;
}

}  // namespace

absl::Status MpiStatus(int code, std::string_view what) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  PMPI_Error_string(code, text, &length);
  return absl::InternalError(
      absl::StrCat(std::string(what), ": ", std::string(text, static_cast<size_t>(length))));
}

bool AnyCommunicatorBroken() { return g_any_broken; }

absl::StatusOr<std::shared_ptr<Communicator>> Communicator::Duplicate(MPI_Comm base,
                                                                      std::chrono::milliseconds timeout) {
  std::shared_ptr<Communicator> result(new Communicator);
  absl::Status status = MpiStatus(PMPI_Comm_rank(base, &result->rank_), "PMPI_Comm_rank");
  status.Update(MpiStatus(PMPI_Comm_size(base, &result->size_), "PMPI_Comm_size"));
  if (!status.ok()) return status;
  result->peers_.resize(static_cast<size_t>(result->size_));
  result->watched_.resize(static_cast<size_t>(result->size_), false);
  for (MPI_Comm* place : {&result->messages_, &result->collectives_}) {
    absl::StatusOr<MPI_Comm> duplicate = DuplicateWithin(base, result, timeout);
    if (!duplicate.ok()) return duplicate.status();
    *place = *duplicate;
  }
  status = result->MeetPeers(timeout);
  if (!status.ok()) return status;
  return result;
}

Communicator::~Communicator() {
  if (!broken_.ok() || Finalized()) return;
  for (MPI_Comm* comm : {&messages_, &collectives_}) {
    if (*comm != MPI_COMM_NULL) PMPI_Comm_free(comm);
  }
}

absl::Status Communicator::MeetPeers(std::chrono::milliseconds timeout) {
  ProcessIdentity self = ThisProcess();
  self.may_block = timeout >= kNoDeadline ? 1 : 0;
  {
    MPI_Request request = MPI_REQUEST_NULL;
    const int code = PMPI_Iallgather(&self, sizeof(self), MPI_BYTE, peers_.data(), sizeof(self), MPI_BYTE,
                                     collectives_, &request);
    if (code != MPI_SUCCESS) return MpiStatus(code, "PMPI_Iallgather");
    // Borrowed, not shared: the operation ends here.
    MpiOperation operation(std::shared_ptr<Communicator>(std::shared_ptr<void>(), this));
    operation.AddCollective(request);
    if (absl::Status status = operation.Wait(timeout); !status.ok()) return status;
  }
  may_block_ = std::all_of(peers_.begin(), peers_.end(),
                           [](const ProcessIdentity& peer) { return peer.may_block == 1; });
  int nodes = 0;
  for (int rank = 0; rank < size_; ++rank) {
    ProcessIdentity& peer = peers_[static_cast<size_t>(rank)];
    peer.host[sizeof(peer.host) - 1] = '\0';
    peer.boot_id[sizeof(peer.boot_id) - 1] = '\0';
    watched_[static_cast<size_t>(rank)] = rank != rank_ && SameNode(self, peer) && ProcessVisible(peer);
    const auto same = std::find_if(peers_.begin(), peers_.begin() + rank,
                                   [&](const ProcessIdentity& other) { return SameNode(other, peer); });
    nodes_.push_back(same == peers_.begin() + rank ? nodes++
                                                   : nodes_[static_cast<size_t>(same - peers_.begin())]);
  }
  return absl::OkStatus();
}

std::string Communicator::Describe(int rank) const {
  const ProcessIdentity& peer = peers_[static_cast<size_t>(rank)];
  if (peer.pid == 0) return absl::StrCat("rank ", rank);
  return absl::StrCat("rank ", rank, " (pid ", peer.pid, " on host ", peer.host, ")");
}

bool Communicator::Gone(int peer) const {
  return watched_[static_cast<size_t>(peer)] && ProcessGone(peers_[static_cast<size_t>(peer)]);
}

Communicator::Scratch Communicator::TakeScratch(size_t bytes) {
  if (scratch_.bytes >= bytes) return std::exchange(scratch_, {});
  scratch_ = {};
  return {std::make_unique_for_overwrite<std::byte[]>(bytes), bytes};
}

void Communicator::GiveBack(Scratch scratch) {
  if (scratch.bytes > scratch_.bytes) scratch_ = std::move(scratch);
}

absl::Status Communicator::Break(absl::Status reason) {
  if (broken_.ok()) broken_ = std::move(reason);
  g_any_broken = true;
  return broken_;
}

}  // namespace terse::transport
