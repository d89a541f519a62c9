// SPDX-License-Identifier: Apache-2.0
//
// A transport that fails on purpose, for tests: it passes everything on to another group until a given
// collective, which it never starts. Other ranks find this one gone, or silent.
#ifndef TERSE_TESTS_ENGINE_CUT_GROUP_H_
#define TERSE_TESTS_ENGINE_CUT_GROUP_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "transport/transport.h"

namespace terse::transport {

enum class Cut : uint8_t {
  kGone,    // the rank leaves its group, as if its process had died
  kSilent,  // the rank stays and says nothing more
};

class CutGroup final : public Group {
 public:
  explicit CutGroup(std::unique_ptr<Group> group)
      : group_(std::move(group)),
        rank_(group_->rank()),
        size_(group_->size()),
        nodes_(group_->nodes().begin(), group_->nodes().end()) {}

  // The `at`-th collective from now on, counted from 1, is the one that fails.
  void CutAt(uint64_t at, Cut cut) {
    at_ = calls_ + at;
    cut_ = cut;
  }
  // Collectives so far.
  uint64_t calls() const { return calls_; }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  uint32_t generation() const override { return 0; }
  Capabilities capabilities() const override { return {}; }
  absl::Span<const int> nodes() const override { return nodes_; }
  std::string Describe(int rank) const override { return "rank " + std::to_string(rank); }

  OperationOr Send(int peer, int tag, ConstBuffer from, Stream stream) override {
    return Pass([&] { return group_->Send(peer, tag, from, stream); });
  }
  OperationOr Receive(int peer, int tag, Buffer to, size_t* length, Stream stream) override {
    return Pass([&] { return group_->Receive(peer, tag, to, length, stream); });
  }
  OperationOr SendToOthers(int tag, absl::Span<const ConstBuffer> from, Stream stream) override {
    return Pass([&] { return group_->SendToOthers(tag, from, stream); });
  }
  OperationOr ReceiveFromOthers(int tag, absl::Span<const Buffer> to, absl::Span<size_t> lengths,
                                Stream stream) override {
    return Pass([&] { return group_->ReceiveFromOthers(tag, to, lengths, stream); });
  }
  OperationOr Allreduce(const void* in, void* out, size_t count, wire::DType dtype, Stream stream) override {
    return Pass([&] { return group_->Allreduce(in, out, count, dtype, stream); });
  }
  OperationOr Allgatherv(ConstBuffer own, absl::Span<const Buffer> to, absl::Span<size_t> lengths,
                         Stream stream) override {
    return Pass([&] { return group_->Allgatherv(own, to, lengths, stream); });
  }
  OperationOr Alltoallv(absl::Span<const ConstBuffer> from, absl::Span<const Buffer> to,
                        absl::Span<size_t> lengths, Stream stream) override {
    return Pass([&] { return group_->Alltoallv(from, to, lengths, stream); });
  }
  OperationOr Broadcast(Buffer inout, int root, Stream stream) override {
    return Pass([&] { return group_->Broadcast(inout, root, stream); });
  }
  OperationOr Barrier() override {
    return Pass([&] { return group_->Barrier(); });
  }
  uint64_t bytes_sent() const override { return group_ == nullptr ? 0 : group_->bytes_sent(); }
  absl::StatusOr<std::unique_ptr<Group>> Shrink(absl::Span<const int> survivors) override {
    return absl::UnimplementedError("not elastic");
  }

 private:
  template <typename Start>
  OperationOr Pass(const Start& start) {
    if (++calls_ >= at_) {
      if (cut_ == Cut::kGone) group_.reset();
      return absl::UnavailableError("rank " + std::to_string(rank_) + " was cut off");
    }
    return start();
  }

  std::unique_ptr<Group> group_;
  const int rank_;
  const int size_;
  const std::vector<int> nodes_;
  uint64_t calls_ = 0;
  uint64_t at_ = UINT64_MAX;
  Cut cut_ = Cut::kGone;
};

}  // namespace terse::transport

#endif  // TERSE_TESTS_ENGINE_CUT_GROUP_H_
