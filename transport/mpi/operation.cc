// SPDX-License-Identifier: Apache-2.0
#include "transport/mpi/operation.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace terse::transport {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// Longer waits would overflow the clock.
constexpr milliseconds kForever = std::chrono::hours(24 * 365);

// When a wait has gone on without progress for this long, and then again and again, the peers' processes
// are looked at.
constexpr milliseconds kFirstLook = milliseconds(50);
constexpr milliseconds kNextLook = milliseconds(100);
// What a process sent before it ended may still be on its way within the machine.
constexpr milliseconds kLastWords = milliseconds(20);
constexpr milliseconds kCancelPatience = milliseconds(1000);

// Messages up to that size come in one piece; larger ones and collectives move on only when they are asked
// for.
constexpr size_t kOnePiece = size_t{64} << 10;

// Hands the processor over between two looks at the requests. Ranks often share cores: spinning would
// take the time that the awaited peer needs. Yielding alone leaves the waiting rank a core that counts as
// busy beside one on which two ranks have work. Naps cost bandwidth while data streams in, so they come late
// then.
void Relax(Clock::duration waited, bool streaming) {
  if (waited < microseconds(5)) return;
  if (waited < (streaming ? milliseconds(100) : milliseconds(1))) {
    sched_yield();
    return;
  }
  const int64_t nap = waited < milliseconds(1000) ? 50'000 : 200'000;
  const timespec pause{0, nap};
  nanosleep(&pause, nullptr);
}

// A message as MPI takes it. Counts of MPI are int; beyond that one element of a type made for the size.
class MessageType {
 public:
  absl::Status Make(size_t bytes) {
    if (bytes <= static_cast<size_t>(std::numeric_limits<int>::max())) {
      count_ = static_cast<int>(bytes);
      return absl::OkStatus();
    }
    constexpr size_t kBlock = size_t{1} << 30;
    MPI_Datatype block = MPI_DATATYPE_NULL;
    int code = PMPI_Type_contiguous(static_cast<int>(kBlock), MPI_BYTE, &block);
    if (code == MPI_SUCCESS) {
      int lengths[2] = {static_cast<int>(bytes / kBlock), static_cast<int>(bytes % kBlock)};
      MPI_Aint offsets[2] = {0, static_cast<MPI_Aint>(bytes / kBlock * kBlock)};
      MPI_Datatype types[2] = {block, MPI_BYTE};
      code = PMPI_Type_create_struct(2, lengths, offsets, types, &made_);
      PMPI_Type_free(&block);
    }
    if (code == MPI_SUCCESS) code = PMPI_Type_commit(&made_);
    count_ = 1;
    return MpiStatus(code, absl::StrCat("type for a message of ", bytes, " bytes"));
  }
  // MPI keeps the type until the messages that use it have ended.
  ~MessageType() {
    if (made_ != MPI_DATATYPE_NULL) PMPI_Type_free(&made_);
  }
  int count() const { return count_; }
  MPI_Datatype type() const { return made_ == MPI_DATATYPE_NULL ? MPI_BYTE : made_; }

 private:
  int count_ = 0;
  MPI_Datatype made_ = MPI_DATATYPE_NULL;
};

}  // namespace

MpiOperation::MpiOperation(std::shared_ptr<Communicator> communicator)
    : communicator_(std::move(communicator)) {
  Restart();
}

MpiOperation::~MpiOperation() {
  if (pending_ == 0) {
    communicator_->GiveBack(std::move(scratch_));
    return;
  }
  (void)scratch_.data.release();  // MPI may read it yet
  (void)communicator_->Break(absl::FailedPreconditionError(
      "an operation of this group was destroyed before it ended; the group cannot be used any more"));
  int finalized = 0;
  PMPI_Finalized(&finalized);
  if (finalized != 0) return;
  const ScopedErrorsReturn errors_return;
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL || !parts_[i].receive) continue;
    // A receive is cancelled or it has matched; that is decided here, without the peer. One that has
    // matched may need the peer for its data: after a while it is left to MPI.
    PMPI_Cancel(&requests_[i]);
    const auto deadline = Clock::now() + kCancelPatience;
    int ended = 0;
    while (PMPI_Test(&requests_[i], &ended, MPI_STATUS_IGNORE) == MPI_SUCCESS && ended == 0 &&
           Clock::now() < deadline) {
      sched_yield();
    }
  }
}

absl::Status MpiOperation::Send(MPI_Comm comm, int peer, int tag, ConstBuffer from) {
  MessageType type;
  if (absl::Status status = type.Make(from.bytes); !status.ok()) return status;
  MPI_Request request = MPI_REQUEST_NULL;
  const int code = PMPI_Isend(from.data, type.count(), type.type(), peer, tag, comm, &request);
  if (code != MPI_SUCCESS) {
    return Break(MpiStatus(code, absl::StrCat("send to ", communicator_->Describe(peer))));
  }
  if (peer != communicator_->rank()) communicator_->CountSent(from.bytes);
  streaming_ |= from.bytes > kOnePiece;
  requests_.push_back(request);
  parts_.push_back({.peer = peer});
  ++pending_;
  return absl::OkStatus();
}

absl::Status MpiOperation::Receive(MPI_Comm comm, int peer, int tag, Buffer to, size_t* length, bool exact) {
  MessageType type;
  if (absl::Status status = type.Make(to.bytes); !status.ok()) return status;
  MPI_Request request = MPI_REQUEST_NULL;
  const int code = PMPI_Irecv(to.data, type.count(), type.type(), peer, tag, comm, &request);
  if (code != MPI_SUCCESS) {
    return Break(MpiStatus(code, absl::StrCat("receive from ", communicator_->Describe(peer))));
  }
  streaming_ |= to.bytes > kOnePiece;
  requests_.push_back(request);
  parts_.push_back({.peer = peer, .receive = true, .exact = exact, .capacity = to.bytes, .length = length});
  ++pending_;
  return absl::OkStatus();
}

void MpiOperation::AddCollective(MPI_Request request) {
  streaming_ = true;
  requests_.push_back(request);
  parts_.push_back({});
  ++pending_;
}

const std::byte* MpiOperation::Copy(const void* from, size_t bytes) {
  scratch_ = communicator_->TakeScratch(bytes);
  std::memcpy(scratch_.data.get(), from, bytes);
  return scratch_.data.get();
}

absl::Status MpiOperation::Break(absl::Status reason) {
  broken_ = communicator_->Break(std::move(reason));
  return broken_;
}

absl::Status MpiOperation::Complete(const Part& part, const MPI_Status& status, int error) {
  if (error != MPI_SUCCESS) {
    int error_class = MPI_SUCCESS;
    PMPI_Error_class(error, &error_class);
    if (part.receive && error_class == MPI_ERR_TRUNCATE) {
      Fail(absl::DataLossError(absl::StrCat("message from ", communicator_->Describe(part.peer),
                                            " is longer than its buffer of ", part.capacity, " bytes")));
      return absl::OkStatus();
    }
    const std::string who = part.peer == kEverybody ? "a collective" : communicator_->Describe(part.peer);
    return absl::UnavailableError(MpiStatus(error, absl::StrCat("exchange with ", who)).message());
  }
  if (!part.receive) return absl::OkStatus();
  MPI_Count bytes = 0;
  const int code = PMPI_Get_elements_x(&status, MPI_BYTE, &bytes);
  if (code != MPI_SUCCESS) return MpiStatus(code, "length of a message");
  if (part.length != nullptr) *part.length = static_cast<size_t>(bytes);
  if (part.exact && static_cast<size_t>(bytes) != part.capacity) {
    Fail(absl::DataLossError(absl::StrCat("message of ", static_cast<size_t>(bytes), " bytes from ",
                                          communicator_->Describe(part.peer), " for a buffer of ",
                                          part.capacity)));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> MpiOperation::Progress() {
  if (!broken_.ok()) return broken_;
  if (pending_ == 0) return failure_.ok() ? absl::StatusOr<int>(0) : failure_;
  if (!communicator_->broken().ok()) return broken_ = communicator_->broken();
  indices_.resize(requests_.size());
  statuses_.resize(requests_.size());
  int ended = 0;
  const ScopedErrorsReturn errors_return;
  const int code = PMPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &ended,
                                 indices_.data(), statuses_.data());
  if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) return Break(MpiStatus(code, "PMPI_Testsome"));
  for (int i = 0; i < ended; ++i) {
    const MPI_Status& status = statuses_[static_cast<size_t>(i)];
    // The field is set only when the call says so.
    const int error = code == MPI_ERR_IN_STATUS ? status.MPI_ERROR : MPI_SUCCESS;
    --pending_;
    const absl::Status result =
        Complete(parts_[static_cast<size_t>(indices_[static_cast<size_t>(i)])], status, error);
    if (!result.ok()) return Break(result);
  }
  if (pending_ == 0) return failure_.ok() ? absl::StatusOr<int>(ended) : failure_;
  const absl::Status peers = ended > 0 ? (Restart(), absl::OkStatus()) : LookForTheGone();
  if (!peers.ok()) return peers;
  return ended;
}

void MpiOperation::Restart() {
  last_sign_ = Clock::now();
  next_look_ = last_sign_ + kFirstLook;
  gone_ = kEverybody;
}

absl::Status MpiOperation::LookForTheGone() {
  const Clock::time_point now = Clock::now();
  if (now < next_look_) return absl::OkStatus();
  if (gone_ != kEverybody) {
    return Break(absl::UnavailableError(
        absl::StrCat(communicator_->Describe(gone_), " has ended: its process is gone")));
  }
  for (const int peer : Missing()) {
    if (communicator_->Gone(peer)) {
      gone_ = peer;
      break;
    }
  }
  next_look_ = now + (gone_ != kEverybody ? kLastWords : kNextLook);
  return absl::OkStatus();
}

absl::StatusOr<bool> MpiOperation::Test() {
  const absl::StatusOr<int> ended = Progress();
  if (!ended.ok()) return ended.status();
  return pending_ == 0;
}

absl::Status MpiOperation::Wait(milliseconds patience) {
  patience = std::min(patience, kForever);
  const Clock::time_point start = Clock::now();
  for (;;) {
    const absl::StatusOr<int> ended = Progress();
    if (!ended.ok()) return ended.status();
    if (pending_ == 0) return absl::OkStatus();
    const Clock::duration waited = Clock::now() - std::max(start, last_sign_);
    if (waited >= patience) {
      return Break(absl::DeadlineExceededError(
          absl::StrCat("no message for ", patience.count(), " ms from ", DescribeMissing())));
    }
    Relax(waited, streaming_);
  }
}

std::vector<int> MpiOperation::Missing() const {
  std::vector<int> missing;
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL) continue;
    if (parts_[i].peer != kEverybody) {
      missing.push_back(parts_[i].peer);
      continue;
    }
    for (int peer = 0; peer < communicator_->size(); ++peer) {
      if (peer != communicator_->rank()) missing.push_back(peer);
    }
  }
  std::sort(missing.begin(), missing.end());
  missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
  return missing;
}

std::string MpiOperation::DescribeMissing() const {
  const bool native = std::any_of(parts_.begin(), parts_.end(), [&](const Part& part) {
    return part.peer == kEverybody &&
           requests_[static_cast<size_t>(&part - parts_.data())] != MPI_REQUEST_NULL;
  });
  if (native) return "one or more of the other ranks (MPI's own collective does not tell which)";
  std::vector<std::string> names;
  for (const int peer : Missing()) names.push_back(communicator_->Describe(peer));
  return absl::StrJoin(names, ", ");
}

}  // namespace terse::transport
