// SPDX-License-Identifier: Apache-2.0
//
// A group over MPI. Allgatherv, Alltoallv and Barrier are pairwise messages, all posted at once, so that
// a wait knows who is missing; Allreduce and large Broadcasts are MPI's own non-blocking collectives.
// Errors, waiting and figures: docs/transports.md.
#ifndef TERSE_TRANSPORT_MPI_GROUP_H_
#define TERSE_TRANSPORT_MPI_GROUP_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "transport/mpi/communicator.h"
#include "transport/mpi/operation.h"
#include "transport/transport.h"

namespace terse::transport {

class MpiGroup final : public Group {
 public:
  explicit MpiGroup(std::shared_ptr<Communicator> communicator) : communicator_(std::move(communicator)) {}

  int rank() const override { return communicator_->rank(); }
  int size() const override { return communicator_->size(); }
  uint32_t generation() const override { return 0; }
  Capabilities capabilities() const override;
  absl::Span<const int> nodes() const override { return communicator_->nodes(); }
  std::string Describe(int rank) const override { return communicator_->Describe(rank); }
  uint64_t bytes_sent() const override { return communicator_->bytes_sent(); }

  OperationOr Send(int peer, int tag, ConstBuffer from, Stream stream) override;
  OperationOr Receive(int peer, int tag, Buffer to, size_t* length, Stream stream) override;
  OperationOr SendToOthers(int tag, absl::Span<const ConstBuffer> from, Stream stream) override;
  OperationOr ReceiveFromOthers(int tag, absl::Span<const Buffer> to, absl::Span<size_t> lengths,
                                Stream stream) override;
  OperationOr Allreduce(const void* in, void* out, size_t count, wire::DType dtype, Stream stream) override;
  OperationOr Allgatherv(ConstBuffer own, absl::Span<const Buffer> to, absl::Span<size_t> lengths,
                         Stream stream) override;
  OperationOr Alltoallv(absl::Span<const ConstBuffer> from, absl::Span<const Buffer> to,
                        absl::Span<size_t> lengths, Stream stream) override;
  OperationOr Broadcast(Buffer inout, int root, Stream stream) override;
  OperationOr Barrier() override;
  absl::StatusOr<std::unique_ptr<Group>> Shrink(absl::Span<const int> survivors) override;

 private:
  absl::Status Check(const void* data, size_t bytes, Memory memory) const;
  absl::Status CheckPeer(int peer) const;
  absl::Status CheckSlots(absl::Span<const ConstBuffer> from) const;
  absl::Status CheckSlots(absl::Span<const Buffer> to, absl::Span<size_t> lengths) const;
  // Messages with all others. Each rank begins with a neighbour, so that they do not all begin with rank 0.
  absl::Status SendAll(MPI_Comm comm, int tag, absl::Span<const ConstBuffer> from, MpiOperation* operation);
  absl::Status ReceiveAll(MPI_Comm comm, int tag, absl::Span<const Buffer> to, absl::Span<size_t> lengths,
                          MpiOperation* operation);
  OperationOr Exchange(absl::Span<const ConstBuffer> from, absl::Span<const Buffer> to,
                       absl::Span<size_t> lengths);

  const std::shared_ptr<Communicator> communicator_;
};

// Joins the world or the communicator of `options`; initializes MPI when nobody has, and then finalizes
// it when the process ends well.
absl::StatusOr<std::unique_ptr<Group>> OpenMpiGroup(const OpenOptions& options);

}  // namespace terse::transport

#endif  // TERSE_TRANSPORT_MPI_GROUP_H_
