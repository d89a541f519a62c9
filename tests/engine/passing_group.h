// SPDX-License-Identifier: Apache-2.0
//
// A transport that passes everything on to another group, for tests that want to have a say in it.
#ifndef TERSE_TESTS_ENGINE_PASSING_GROUP_H_
#define TERSE_TESTS_ENGINE_PASSING_GROUP_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "transport/transport.h"

namespace terse::transport {

class PassingGroup : public Group {
 public:
  explicit PassingGroup(std::unique_ptr<Group> group)
      : group_(std::move(group)),
        rank_(group_->rank()),
        size_(group_->size()),
        nodes_(group_->nodes().begin(), group_->nodes().end()) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  uint32_t generation() const override { return 0; }
  Capabilities capabilities() const override { return {}; }
  absl::Span<const int> nodes() const override { return nodes_; }
  std::string Describe(int rank) const override { return "rank " + std::to_string(rank); }

  OperationOr Send(int peer, int tag, ConstBuffer from, Stream stream) override {
    return Pass(from.bytes, [&] { return group_->Send(peer, tag, from, stream); });
  }
  OperationOr Receive(int peer, int tag, Buffer to, size_t* length, Stream stream) override {
    return Pass(0, [&] { return group_->Receive(peer, tag, to, length, stream); });
  }
  OperationOr SendToOthers(int tag, absl::Span<const ConstBuffer> from, Stream stream) override {
    return Pass(ToOthers(from), [&] { return group_->SendToOthers(tag, from, stream); });
  }
  OperationOr ReceiveFromOthers(int tag, absl::Span<const Buffer> to, absl::Span<size_t> lengths,
                                Stream stream) override {
    return Pass(0, [&] { return group_->ReceiveFromOthers(tag, to, lengths, stream); });
  }
  OperationOr Allreduce(const void* in, void* out, size_t count, wire::DType dtype, Stream stream) override {
    const size_t ring = 2 * others() * count * wire::DTypeSize(dtype) / static_cast<size_t>(size_);
    return Pass(ring, [&] { return group_->Allreduce(in, out, count, dtype, stream); });
  }
  OperationOr Allgatherv(ConstBuffer own, absl::Span<const Buffer> to, absl::Span<size_t> lengths,
                         Stream stream) override {
    return Pass(others() * own.bytes, [&] { return group_->Allgatherv(own, to, lengths, stream); });
  }
  OperationOr Alltoallv(absl::Span<const ConstBuffer> from, absl::Span<const Buffer> to,
                        absl::Span<size_t> lengths, Stream stream) override {
    return Pass(ToOthers(from), [&] { return group_->Alltoallv(from, to, lengths, stream); });
  }
  OperationOr Broadcast(Buffer inout, int root, Stream stream) override {
    return Pass(root == rank_ ? others() * inout.bytes : 0,
                [&] { return group_->Broadcast(inout, root, stream); });
  }
  OperationOr Barrier() override {
    return Pass(0, [&] { return group_->Barrier(); });
  }
  uint64_t bytes_sent() const override { return group_ == nullptr ? 0 : group_->bytes_sent(); }
  absl::StatusOr<std::unique_ptr<Group>> Shrink(absl::Span<const int> survivors) override {
    return absl::UnimplementedError("not elastic");
  }

 protected:
  // An operation is about to start in which this rank sends so many bytes; an error is its outcome.
  virtual absl::Status BeforeStart(size_t bytes) = 0;

  // This rank leaves its group, as if its process had died.
  void Leave() { group_.reset(); }

 private:
  size_t others() const { return static_cast<size_t>(size_ - 1); }
  size_t ToOthers(absl::Span<const ConstBuffer> from) const {
    size_t bytes = 0;
    for (size_t r = 0; r < from.size(); ++r) bytes += r == static_cast<size_t>(rank_) ? 0 : from[r].bytes;
    return bytes;
  }
  template <typename Start>
  OperationOr Pass(size_t bytes, const Start& start) {
    if (absl::Status status = BeforeStart(bytes); !status.ok()) return status;
    return start();
  }

  std::unique_ptr<Group> group_;
  const int rank_;
  const int size_;
  const std::vector<int> nodes_;
};

}  // namespace terse::transport

#endif  // TERSE_TESTS_ENGINE_PASSING_GROUP_H_
