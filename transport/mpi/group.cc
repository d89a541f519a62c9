// SPDX-License-Identifier: Apache-2.0
#include "transport/mpi/group.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "transport/mpi/operation.h"

namespace terse::transport {
namespace {

constexpr int kTagEnd = 1 << 15;

// MPI's collectives count elements in int; some of their algorithms count bytes in it as well.
constexpr size_t kCollectivePiece = size_t{1} << 30;  // bytes

// Below this a broadcast is sent from the root to each rank, and a wait knows whom it waits for; above,
// MPI's trees are worth more.
constexpr size_t kFlatBroadcast = 64 * 1024;  // bytes

absl::Status CheckTag(int tag) {
  if (tag >= 0 && tag < kTagEnd) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tag ", tag, "; tags are 0 to ", kTagEnd - 1));
}

// Copies this rank's own slot of a collective.
absl::Status CopyOwn(ConstBuffer from, Buffer to, size_t* length) {
  if (from.bytes > to.bytes) {
    return absl::DataLossError(
        absl::StrCat("own message of ", from.bytes, " bytes for a buffer of ", to.bytes));
  }
  if (from.bytes > 0) std::memmove(to.data, from.data, from.bytes);
  *length = from.bytes;
  return absl::OkStatus();
}

}  // namespace

Capabilities MpiGroup::capabilities() const {
  int level = MPI_THREAD_SINGLE;
  PMPI_Query_thread(&level);
  return {.device_memory = false, .elastic = false, .any_thread = level == MPI_THREAD_MULTIPLE};
}

absl::Status MpiGroup::Check(const void* data, size_t bytes, Memory memory) const {
  if (!communicator_->broken().ok()) return communicator_->broken();
  if (memory != Memory::kHost) return absl::InvalidArgumentError("the mpi transport moves host memory only");
  if (data == nullptr && bytes > 0) {
    return absl::InvalidArgumentError(absl::StrCat("null buffer of ", bytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status MpiGroup::CheckPeer(int peer) const {
  if (peer >= 0 && peer < size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("rank ", peer, " in a group of ", size()));
}

OperationOr MpiGroup::Send(int peer, int tag, ConstBuffer from, Stream) {
  absl::Status status = Check(from.data, from.bytes, from.memory);
  if (status.ok()) status = CheckPeer(peer);
  if (status.ok()) status = CheckTag(tag);
  if (!status.ok()) return status;
  auto operation = std::make_unique<MpiOperation>(communicator_);
  status = operation->Send(communicator_->messages(), peer, tag, from);
  if (!status.ok()) return status;
  return operation;
}

OperationOr MpiGroup::Receive(int peer, int tag, Buffer to, size_t* length, Stream) {
  absl::Status status = Check(to.data, to.bytes, to.memory);
  if (status.ok()) status = CheckPeer(peer);
  if (status.ok()) status = CheckTag(tag);
  if (!status.ok()) return status;
  auto operation = std::make_unique<MpiOperation>(communicator_);
  status = operation->Receive(communicator_->messages(), peer, tag, to, length);
  if (!status.ok()) return status;
  return operation;
}

OperationOr MpiGroup::Allreduce(const void* in, void* out, size_t count, wire::DType dtype, Stream) {
  MPI_Datatype type = MPI_DATATYPE_NULL;
  size_t width = 0;
  switch (dtype) {
    case wire::DType::kFloat32:
      type = MPI_FLOAT;
      width = sizeof(float);
      break;
    case wire::DType::kFloat64:
      type = MPI_DOUBLE;
      width = sizeof(double);
      break;
    default:
      return absl::UnimplementedError("MPI sums float32 and float64 only");
  }
  absl::Status status = Check(in, count, Memory::kHost);
  if (status.ok()) status = Check(out, count, Memory::kHost);
  if (!status.ok()) return status;
  auto operation = std::make_unique<MpiOperation>(communicator_);
  // MPI_IN_PLACE must be given on all ranks or on none, and here each rank decides for itself. Open MPI takes
  // another algorithm for it, which does not fit the other ranks' and is the slower one for large buffers.
  const auto* const from =
      static_cast<const std::byte*>(in == out && count > 0 ? operation->Copy(in, count * width) : in);
  const size_t piece = kCollectivePiece / width;
  for (size_t first = 0; first < count; first += piece) {
    if (communicator_->may_block()) {
      const int code = PMPI_Allreduce(from + first * width, static_cast<char*>(out) + first * width,
                                      static_cast<int>(std::min(piece, count - first)), type, MPI_SUM,
                                      communicator_->collectives());
      if (code != MPI_SUCCESS) return communicator_->Break(MpiStatus(code, "PMPI_Allreduce"));
      continue;
    }
    MPI_Request request = MPI_REQUEST_NULL;
    const int code = PMPI_Iallreduce(from + first * width, static_cast<char*>(out) + first * width,
                                     static_cast<int>(std::min(piece, count - first)), type, MPI_SUM,
                                     communicator_->collectives(), &request);
    if (code != MPI_SUCCESS) return communicator_->Break(MpiStatus(code, "PMPI_Iallreduce"));
    operation->AddCollective(request);
  }
  // Counted as the contract says: what MPI really sends it does not tell.
  const auto n = static_cast<uint64_t>(size());
  communicator_->CountSent(2 * (n - 1) * count * width / n);
  return operation;
}

absl::Status MpiGroup::CheckSlots(absl::Span<const ConstBuffer> from) const {
  if (from.size() != static_cast<size_t>(size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("an operation of ", size(), " ranks was given ", from.size(), " sources"));
  }
  for (const ConstBuffer& source : from) {
    if (absl::Status status = Check(source.data, source.bytes, source.memory); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status MpiGroup::CheckSlots(absl::Span<const Buffer> to, absl::Span<size_t> lengths) const {
  const auto n = static_cast<size_t>(size());
  if (to.size() != n || lengths.size() != n) {
    return absl::InvalidArgumentError(absl::StrCat("an operation of ", n, " ranks was given ", to.size(),
                                                   " destinations and ", lengths.size(), " lengths"));
  }
  for (const Buffer& place : to) {
    if (absl::Status status = Check(place.data, place.bytes, place.memory); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status MpiGroup::SendAll(MPI_Comm comm, int tag, absl::Span<const ConstBuffer> from,
                               MpiOperation* operation) {
  for (int step = 1; step < size(); ++step) {
    const int peer = (rank() + step) % size();
    absl::Status status = operation->Send(comm, peer, tag, from[static_cast<size_t>(peer)]);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status MpiGroup::ReceiveAll(MPI_Comm comm, int tag, absl::Span<const Buffer> to,
                                  absl::Span<size_t> lengths, MpiOperation* operation) {
  for (int step = 1; step < size(); ++step) {
    const int peer = (rank() + size() - step) % size();
    const auto slot = static_cast<size_t>(peer);
    absl::Status status = operation->Receive(comm, peer, tag, to[slot], &lengths[slot]);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

OperationOr MpiGroup::SendToOthers(int tag, absl::Span<const ConstBuffer> from, Stream) {
  absl::Status status = CheckTag(tag);
  if (status.ok()) status = CheckSlots(from);
  if (!status.ok()) return status;
  auto operation = std::make_unique<MpiOperation>(communicator_);
  status = SendAll(communicator_->messages(), tag, from, operation.get());
  if (!status.ok()) return status;
  return operation;
}

OperationOr MpiGroup::ReceiveFromOthers(int tag, absl::Span<const Buffer> to, absl::Span<size_t> lengths,
                                        Stream) {
  absl::Status status = CheckTag(tag);
  if (status.ok()) status = CheckSlots(to, lengths);
  if (!status.ok()) return status;
  auto operation = std::make_unique<MpiOperation>(communicator_);
  status = ReceiveAll(communicator_->messages(), tag, to, lengths, operation.get());
  if (!status.ok()) return status;
  return operation;
}

OperationOr MpiGroup::Exchange(absl::Span<const ConstBuffer> from, absl::Span<const Buffer> to,
                               absl::Span<size_t> lengths) {
  absl::Status status = CheckSlots(from);
  if (status.ok()) status = CheckSlots(to, lengths);
  if (!status.ok()) return status;
  auto operation = std::make_unique<MpiOperation>(communicator_);
  MPI_Comm comm = communicator_->collectives();
  const int tag = communicator_->NextTag();
  // Receives first, so that messages find their place.
  status = ReceiveAll(comm, tag, to, lengths, operation.get());
  if (status.ok()) status = SendAll(comm, tag, from, operation.get());
  if (!status.ok()) return status;
  const auto own = static_cast<size_t>(rank());
  operation->Fail(CopyOwn(from[own], to[own], &lengths[own]));
  return operation;
}

OperationOr MpiGroup::Allgatherv(ConstBuffer own, absl::Span<const Buffer> to, absl::Span<size_t> lengths,
                                 Stream) {
  return Exchange(std::vector<ConstBuffer>(static_cast<size_t>(size()), own), to, lengths);
}

OperationOr MpiGroup::Alltoallv(absl::Span<const ConstBuffer> from, absl::Span<const Buffer> to,
                                absl::Span<size_t> lengths, Stream) {
  return Exchange(from, to, lengths);
}

OperationOr MpiGroup::Barrier() {
  if (!communicator_->broken().ok()) return communicator_->broken();
  auto operation = std::make_unique<MpiOperation>(communicator_);
  const int tag = communicator_->NextTag();
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    absl::Status status = operation->Receive(communicator_->collectives(), peer, tag, {}, nullptr);
    if (status.ok()) status = operation->Send(communicator_->collectives(), peer, tag, {});
    if (!status.ok()) return status;
  }
  return operation;
}

OperationOr MpiGroup::Broadcast(Buffer inout, int root, Stream) {
  absl::Status status = Check(inout.data, inout.bytes, inout.memory);
  if (status.ok()) status = CheckPeer(root);
  if (!status.ok()) return status;
  auto operation = std::make_unique<MpiOperation>(communicator_);
  MPI_Comm comm = communicator_->collectives();
  if (inout.bytes <= kFlatBroadcast) {
    const int tag = communicator_->NextTag();
    if (rank() != root) {
      status = operation->Receive(comm, root, tag, inout, nullptr, /*exact=*/true);
    }
    for (int peer = 0; rank() == root && peer < size() && status.ok(); ++peer) {
      if (peer != root) status = operation->Send(comm, peer, tag, {inout.data, inout.bytes});
    }
    if (!status.ok()) return status;
    return operation;
  }
  for (size_t first = 0; first < inout.bytes; first += kCollectivePiece) {
    const size_t bytes = std::min(kCollectivePiece, inout.bytes - first);
    MPI_Request request = MPI_REQUEST_NULL;
    const int code = PMPI_Ibcast(static_cast<char*>(inout.data) + first, static_cast<int>(bytes), MPI_BYTE,
                                 root, comm, &request);
    if (code != MPI_SUCCESS) return communicator_->Break(MpiStatus(code, "PMPI_Ibcast"));
    operation->AddCollective(request);
  }
  // Every other rank gets the bytes once; they are counted where they come from.
  if (rank() == root) communicator_->CountSent(static_cast<uint64_t>(size() - 1) * inout.bytes);
  return operation;
}

absl::StatusOr<std::unique_ptr<Group>> MpiGroup::Shrink(absl::Span<const int>) {
  return absl::UnimplementedError(
      "MPI groups cannot shrink: MPI has no standard way to go on without a rank");
}

}  // namespace terse::transport
