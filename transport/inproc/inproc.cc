// SPDX-License-Identifier: Apache-2.0
#include "transport/inproc/inproc.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "transport/inproc/world.h"

namespace terse::transport {
namespace {

// Collectives have a channel of their own, beside the callers' tags.
constexpr int kCollectiveTag = -1;
constexpr int kTagEnd = 1 << 15;
// Longer waits would overflow the clock.
constexpr std::chrono::milliseconds kForever = std::chrono::hours(24 * 365);

Payload CopyOf(ConstBuffer from) {
  const auto* begin = static_cast<const std::byte*>(from.data);
  return std::make_shared<const std::vector<std::byte>>(begin, begin + from.bytes);
}

// One rank's side of a group. Its operations share it, so that either may be destroyed first.
class Member {
 public:
  Member(std::shared_ptr<World> shared_world, int own_rank)
      : world(std::move(shared_world)), rank(own_rank) {}

  int size() const { return static_cast<int>(world->inboxes.size()); }
  Inbox& inbox() { return *world->inboxes[static_cast<size_t>(rank)]; }

  // Not counted in bytes_sent.
  void Post(int peer, int tag, Payload payload) {
    const MessageKey key{rank, tag, sent_[{peer, tag}]++};
    world->inboxes[static_cast<size_t>(peer)]->Post(key, std::move(payload));
  }

  void Send(int peer, int tag, Payload payload) {
    if (peer != rank) bytes_sent += payload->size();
    Post(peer, tag, std::move(payload));
  }

  // Receives match messages in the order in which they were started, whichever is tested first.
  MessageKey NextFrom(int peer, int tag) { return {peer, tag, received_[{peer, tag}]++}; }

  // The first reason stays.
  absl::Status Break(absl::Status reason) {
    if (broken.ok()) broken = std::move(reason);
    return broken;
  }

  std::string Describe(int peer) const {
    return absl::StrCat("rank ", peer, " (thread of inproc world ", world->id, ")");
  }

  const std::shared_ptr<World> world;
  const int rank;
  uint64_t bytes_sent = 0;
  absl::Status broken;

 private:
  std::map<std::pair<int, int>, uint64_t> sent_;  // by peer and tag
  std::map<std::pair<int, int>, uint64_t> received_;
};

// An operation that ends when a set of messages has come. What it sends was posted when it started.
class MessageOperation : public Operation {
 public:
  explicit MessageOperation(std::shared_ptr<Member> member) : member_(std::move(member)) {}

  ~MessageOperation() override {
    if (!awaited_.empty() && result_.ok()) {
      (void)member_->Break(absl::FailedPreconditionError(
          "an operation of this group was destroyed before it ended; the group cannot be used any more"));
    }
  }

  absl::StatusOr<bool> Test() final {
    absl::StatusOr<size_t> arrived = Progress();
    if (!arrived.ok()) return arrived.status();
    return awaited_.empty();
  }

  absl::Status Wait(std::chrono::milliseconds patience) final {
    patience = std::min(patience, kForever);
    auto deadline = std::chrono::steady_clock::now() + patience;
    for (;;) {
      const uint64_t seen = member_->inbox().events();
      absl::StatusOr<size_t> arrived = Progress();
      if (!arrived.ok()) return arrived.status();
      if (awaited_.empty()) return absl::OkStatus();
      if (*arrived > 0) deadline = std::chrono::steady_clock::now() + patience;
      if (!member_->inbox().WaitForEvent(seen, deadline)) {
        return result_ = member_->Break(absl::DeadlineExceededError(
                   absl::StrCat("no message for ", patience.count(), " ms from ", Missing())));
      }
    }
  }

 protected:
  // The next message of `source`; Deliver gets it with the same slot.
  void Await(int source, int tag, size_t slot) { awaited_.push_back({member_->NextFrom(source, tag), slot}); }
  Member& member() { return *member_; }

 private:
  struct Awaited {
    MessageKey key;
    size_t slot;
  };

  virtual absl::Status Deliver(size_t slot, Payload payload) = 0;
  virtual void Finish() {}

  // Delivers what has come and gives its number.
  absl::StatusOr<size_t> Progress() {
    if (!result_.ok()) return result_;
    if (awaited_.empty()) return loss_.ok() ? absl::StatusOr<size_t>(0) : loss_;
    if (!member_->broken.ok()) return result_ = member_->broken;
    const size_t before = awaited_.size();
    for (size_t i = 0; i < awaited_.size();) {
      // Gone is asked first: what the lost rank posted before it went must still be found.
      const bool gone = member_->inbox().Gone(awaited_[i].key.source);
      Payload payload = member_->inbox().Take(awaited_[i].key);
      if (payload != nullptr) {
        loss_.Update(Deliver(awaited_[i].slot, std::move(payload)));
        awaited_.erase(awaited_.begin() + static_cast<std::ptrdiff_t>(i));
      } else if (gone) {
        return result_ = member_->Break(absl::UnavailableError(
                   absl::StrCat(member_->Describe(awaited_[i].key.source), " has left the group")));
      } else {
        ++i;
      }
    }
    if (awaited_.empty()) {
      if (!loss_.ok()) return loss_;
      Finish();
    }
    return before - awaited_.size();
  }

  std::string Missing() const {
    std::vector<std::string> names;
    for (const Awaited& awaited : awaited_) names.push_back(member_->Describe(awaited.key.source));
    return absl::StrJoin(names, ", ");
  }

  const std::shared_ptr<Member> member_;
  std::vector<Awaited> awaited_;
  absl::Status loss_;    // a message that did not fit; the others are still taken
  absl::Status result_;  // why the operation cannot end
};

// Messages that go to places in the caller's memory.
class TransferOperation final : public MessageOperation {
 public:
  using MessageOperation::MessageOperation;

  // `exact`: a message shorter than the place is an error too.
  void Receive(int source, int tag, Buffer to, size_t* length, bool exact = false) {
    Await(source, tag, places_.size());
    places_.push_back({source, to, length, exact});
  }

 private:
  struct Place {
    int source;
    Buffer to;
    size_t* length;
    bool exact;
  };

  absl::Status Deliver(size_t slot, Payload payload) override {
    const Place& place = places_[slot];
    const size_t bytes = payload->size();
    if (bytes > place.to.bytes || (place.exact && bytes != place.to.bytes)) {
      return absl::DataLossError(absl::StrCat("message of ", bytes, " bytes from ",
                                              member().Describe(place.source), " for a buffer of ",
                                              place.to.bytes));
    }
    if (bytes > 0) std::memcpy(place.to.data, payload->data(), bytes);
    if (place.length != nullptr) *place.length = bytes;
    return absl::OkStatus();
  }

  std::vector<Place> places_;
};

// All ranks' vectors, summed in rank order once the last has come. Every rank does the same additions.
template <typename T>
class SumOperation final : public MessageOperation {
 public:
  SumOperation(std::shared_ptr<Member> member, T* out, size_t count)
      : MessageOperation(std::move(member)), out_(out), count_(count) {
    parts_.resize(static_cast<size_t>(this->member().size()));
    for (size_t rank = 0; rank < parts_.size(); ++rank) Await(static_cast<int>(rank), kCollectiveTag, rank);
  }

 private:
  absl::Status Deliver(size_t slot, Payload payload) override {
    if (payload->size() != count_ * sizeof(T)) {
      return absl::DataLossError(absl::StrCat("Allreduce of ", count_ * sizeof(T), " bytes, but ",
                                              member().Describe(static_cast<int>(slot)), " gave ",
                                              payload->size()));
    }
    parts_[slot] = std::move(payload);
    return absl::OkStatus();
  }

  void Finish() override {
    for (size_t rank = 0; rank < parts_.size(); ++rank) {
      const auto* part = reinterpret_cast<const T*>(parts_[rank]->data());
      if (rank == 0) {
        std::copy_n(part, count_, out_);
      } else {
        for (size_t i = 0; i < count_; ++i) out_[i] += part[i];
      }
    }
    parts_.clear();
  }

  T* const out_;
  const size_t count_;
  std::vector<Payload> parts_;
};

class InprocGroup final : public Group {
 public:
  InprocGroup(std::shared_ptr<World> world, int rank, uint32_t generation, const OpenOptions& options)
      : member_(std::make_shared<Member>(std::move(world), rank)),
        generation_(generation),
        options_(options),
        nodes_(static_cast<size_t>(member_->size()), 0) {}

  ~InprocGroup() override {
    for (const auto& inbox : member_->world->inboxes) inbox->MarkGone(member_->rank);
  }

  int rank() const override { return member_->rank; }
  int size() const override { return member_->size(); }
  uint32_t generation() const override { return generation_; }
  Capabilities capabilities() const override {
    return {.device_memory = false, .elastic = true, .any_thread = true};
  }
  absl::Span<const int> nodes() const override { return nodes_; }
  std::string Describe(int rank) const override { return member_->Describe(rank); }
  uint64_t bytes_sent() const override { return member_->bytes_sent; }

  OperationOr Send(int peer, int tag, ConstBuffer from, Stream) override {
    if (absl::Status status = CheckPeer(peer, tag); !status.ok()) return status;
    if (absl::Status status = Check(from.data, from.bytes, from.memory); !status.ok()) return status;
    member_->Send(peer, tag, CopyOf(from));
    return std::make_unique<TransferOperation>(member_);
  }

  OperationOr Receive(int peer, int tag, Buffer to, size_t* length, Stream) override {
    if (absl::Status status = CheckPeer(peer, tag); !status.ok()) return status;
    if (absl::Status status = Check(to.data, to.bytes, to.memory); !status.ok()) return status;
    auto operation = std::make_unique<TransferOperation>(member_);
    operation->Receive(peer, tag, to, length);
    return operation;
  }

  OperationOr SendToOthers(int tag, absl::Span<const ConstBuffer> from, Stream) override {
    if (absl::Status status = CheckPeer(0, tag); !status.ok()) return status;
    if (absl::Status status = CheckSources(from); !status.ok()) return status;
    for (int peer = 0; peer < size(); ++peer) {
      if (peer != rank()) member_->Send(peer, tag, CopyOf(from[static_cast<size_t>(peer)]));
    }
    return std::make_unique<TransferOperation>(member_);
  }

  OperationOr ReceiveFromOthers(int tag, absl::Span<const Buffer> to, absl::Span<size_t> lengths,
                                Stream) override {
    if (absl::Status status = CheckPeer(0, tag); !status.ok()) return status;
    if (absl::Status status = CheckPlaces(to, lengths); !status.ok()) return status;
    auto operation = std::make_unique<TransferOperation>(member_);
    for (int peer = 0; peer < size(); ++peer) {
      const auto slot = static_cast<size_t>(peer);
      if (peer != rank()) operation->Receive(peer, tag, to[slot], &lengths[slot]);
    }
    return operation;
  }

  OperationOr Allreduce(const void* in, void* out, size_t count, wire::DType dtype, Stream) override {
    switch (dtype) {
      case wire::DType::kFloat32:
        return Sum<float>(in, out, count);
      case wire::DType::kFloat64:
        return Sum<double>(in, out, count);
      default:
        return absl::UnimplementedError("inproc sums float32 and float64 only");
    }
  }

  OperationOr Allgatherv(ConstBuffer own, absl::Span<const Buffer> to, absl::Span<size_t> lengths,
                         Stream) override {
    if (absl::Status status = Check(own.data, own.bytes, own.memory); !status.ok()) return status;
    if (absl::Status status = CheckPlaces(to, lengths); !status.ok()) return status;
    const Payload payload = CopyOf(own);
    for (int peer = 0; peer < size(); ++peer) member_->Send(peer, kCollectiveTag, payload);
    return ReceiveFromAll(to, lengths);
  }

  OperationOr Alltoallv(absl::Span<const ConstBuffer> from, absl::Span<const Buffer> to,
                        absl::Span<size_t> lengths, Stream) override {
    if (absl::Status status = CheckPlaces(to, lengths); !status.ok()) return status;
    if (absl::Status status = CheckSources(from); !status.ok()) return status;
    for (int peer = 0; peer < size(); ++peer) {
      member_->Send(peer, kCollectiveTag, CopyOf(from[static_cast<size_t>(peer)]));
    }
    return ReceiveFromAll(to, lengths);
  }

  OperationOr Broadcast(Buffer inout, int root, Stream) override {
    if (absl::Status status = CheckPeer(root, 0); !status.ok()) return status;
    if (absl::Status status = Check(inout.data, inout.bytes, inout.memory); !status.ok()) return status;
    auto operation = std::make_unique<TransferOperation>(member_);
    if (root == rank()) {
      SendToOthers(CopyOf({inout.data, inout.bytes}));
    } else {
      operation->Receive(root, kCollectiveTag, inout, nullptr, /*exact=*/true);
    }
    return operation;
  }

  OperationOr Barrier() override {
    if (!member_->broken.ok()) return member_->broken;
    auto operation = std::make_unique<TransferOperation>(member_);
    SendToOthers(CopyOf({}));
    for (int peer = 0; peer < size(); ++peer) {
      if (peer != rank()) operation->Receive(peer, kCollectiveTag, {}, nullptr);
    }
    return operation;
  }

  absl::StatusOr<std::unique_ptr<Group>> Shrink(absl::Span<const int> survivors) override {
    const auto me = std::find(survivors.begin(), survivors.end(), rank());
    const bool ascending = std::adjacent_find(survivors.begin(), survivors.end(),
                                              [](int a, int b) { return a >= b; }) == survivors.end();
    if (me == survivors.end() || !ascending || survivors.front() < 0 || survivors.back() >= size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("Shrink(", absl::StrJoin(survivors, ", "), ") at rank ", rank(), " of ", size(),
                       ": survivors are ranks of this group, ascending, the caller among them"));
    }
    const int new_rank = static_cast<int>(me - survivors.begin());
    const std::string place = absl::StrCat(options_.hub, " shrunk from world ", member_->world->id,
                                           " to ranks ", absl::StrJoin(survivors, ","));
    auto world = Meet(place, new_rank, static_cast<int>(survivors.size()), options_.timeout);
    if (!world.ok()) return world.status();
    return std::make_unique<InprocGroup>(*std::move(world), new_rank, generation_ + 1, options_);
  }

 private:
  absl::Status Check(const void* data, size_t bytes, Memory memory) const {
    if (!member_->broken.ok()) return member_->broken;
    if (memory != Memory::kHost) {
      return absl::InvalidArgumentError("inproc moves host memory only");
    }
    if (data == nullptr && bytes > 0) {
      return absl::InvalidArgumentError(absl::StrCat("null buffer of ", bytes, " bytes"));
    }
    return absl::OkStatus();
  }

  absl::Status CheckPeer(int peer, int tag) const {
    if (peer < 0 || peer >= size()) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", peer, " in a group of ", size()));
    }
    if (tag < 0 || tag >= kTagEnd) {
      return absl::InvalidArgumentError(absl::StrCat("tag ", tag, "; tags are 0 to ", kTagEnd - 1));
    }
    return absl::OkStatus();
  }

  void SendToOthers(const Payload& payload) {
    for (int peer = 0; peer < size(); ++peer) {
      if (peer != rank()) member_->Send(peer, kCollectiveTag, payload);
    }
  }

  template <typename T>
  OperationOr Sum(const void* in, void* out, size_t count) {
    if (absl::Status status = Check(in, count, Memory::kHost); !status.ok()) return status;
    if (absl::Status status = Check(out, count, Memory::kHost); !status.ok()) return status;
    const Payload own = CopyOf({in, count * sizeof(T)});
    for (int peer = 0; peer < size(); ++peer) member_->Post(peer, kCollectiveTag, own);
    // Counted as the contract says, whatever this implementation copies.
    const auto n = static_cast<uint64_t>(size());
    member_->bytes_sent += 2 * (n - 1) * count * sizeof(T) / n;
    return std::make_unique<SumOperation<T>>(member_, static_cast<T*>(out), count);
  }

  absl::Status CheckSources(absl::Span<const ConstBuffer> from) const {
    if (from.size() != static_cast<size_t>(size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("an operation of ", size(), " ranks was given ", from.size(), " sources"));
    }
    for (const ConstBuffer& source : from) {
      if (absl::Status status = Check(source.data, source.bytes, source.memory); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status CheckPlaces(absl::Span<const Buffer> to, absl::Span<size_t> lengths) const {
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

  OperationOr ReceiveFromAll(absl::Span<const Buffer> to, absl::Span<size_t> lengths) {
    auto operation = std::make_unique<TransferOperation>(member_);
    for (int peer = 0; peer < size(); ++peer) {
      operation->Receive(peer, kCollectiveTag, to[static_cast<size_t>(peer)],
                         &lengths[static_cast<size_t>(peer)]);
    }
    return operation;
  }

  const std::shared_ptr<Member> member_;
  const uint32_t generation_;
  const OpenOptions options_;
  const std::vector<int> nodes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Group>> OpenInproc(const OpenOptions& options) {
  if (options.world_size < 1 || options.rank < 0 || options.rank >= options.world_size) {
    return absl::InvalidArgumentError(absl::StrCat("inproc needs a world size and a rank below it, not rank ",
                                                   options.rank, " of ", options.world_size));
  }
  auto world = Meet(options.hub, options.rank, options.world_size, options.timeout);
  if (!world.ok()) return world.status();
  return std::make_unique<InprocGroup>(*std::move(world), options.rank, /*generation=*/0u, options);
}

}  // namespace terse::transport
