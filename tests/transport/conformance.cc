// SPDX-License-Identifier: Apache-2.0
#include "tests/transport/conformance.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include "absl/status/status.h"

namespace terse::transport {
namespace {

// Long enough for a loaded machine; a correct transport never waits it out.
constexpr std::chrono::milliseconds kPatience = std::chrono::seconds(60);

absl::Status End(const OperationOr& operation) {
  return operation.ok() ? (*operation)->Wait(kPatience) : operation.status();
}

absl::StatusCode EndCode(const OperationOr& operation) { return End(operation).code(); }

// Bytes that differ with sender, receiver and position.
std::string Text(int from, int to, size_t bytes) {
  std::string text(bytes, '\0');
  uint32_t state = 2654435761u * static_cast<uint32_t>(from * 131 + to + 1);
  for (char& c : text) {
    state = state * 1664525u + 1013904223u;
    c = static_cast<char>(state >> 24);
  }
  return text;
}

ConstBuffer From(const std::string& text) { return {text.data(), text.size()}; }
Buffer To(std::string& text) { return {text.data(), text.size()}; }

// One receive buffer per rank, filled with a pattern that no case sends on purpose.
struct Places {
  Places(int ranks, size_t capacity) : texts(static_cast<size_t>(ranks)), lengths(texts.size(), 12345) {
    for (std::string& text : texts) {
      text.assign(capacity, '\x5a');
      buffers.push_back(To(text));
    }
  }
  // What came from `rank`.
  std::string Got(int rank) const {
    return texts[static_cast<size_t>(rank)].substr(0, lengths[static_cast<size_t>(rank)]);
  }
  std::vector<std::string> texts;
  std::vector<Buffer> buffers;
  std::vector<size_t> lengths;
};

void Identity(Group& group) {
  EXPECT_GE(group.rank(), 0);
  EXPECT_LT(group.rank(), group.size());
  EXPECT_EQ(group.generation(), 0u);
  ASSERT_EQ(group.nodes().size(), static_cast<size_t>(group.size()));
  EXPECT_EQ(group.nodes()[0], 0);
  const std::string name = "rank " + std::to_string(group.rank());
  EXPECT_NE(group.Describe(group.rank()).find(name), std::string::npos);
}

void SendAndReceive(Group& group) {
  const int right = (group.rank() + 1) % group.size();
  const int left = (group.rank() + group.size() - 1) % group.size();
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{5000}, size_t{300000}}) {
    const std::string out = Text(group.rank(), right, bytes);
    std::string in(bytes + 7, '\0');  // a larger capacity is no error
    size_t length = 99;
    OperationOr receive = group.Receive(left, 3, To(in), &length, {});
    OperationOr send = group.Send(right, 3, From(out), {});
    EXPECT_EQ(End(send), absl::OkStatus());
    ASSERT_EQ(End(receive), absl::OkStatus());
    ASSERT_EQ(length, bytes);
    EXPECT_EQ(in.substr(0, length), Text(left, group.rank(), bytes));
  }
}

// Equal tags keep their order though the receives are ended in the opposite one; other tags overtake.
void OrderOfMessages(Group& group) {
  const int right = (group.rank() + 1) % group.size();
  const int left = (group.rank() + group.size() - 1) % group.size();
  std::vector<std::string> out;
  for (size_t i = 0; i < 20; ++i) out.push_back(Text(static_cast<int>(i), right, 100 * i));
  std::vector<OperationOr> sends;
  for (size_t i = 0; i < out.size(); ++i) {
    sends.push_back(group.Send(right, i < 10 ? 7 : 32767, From(out[i]), {}));
  }
  std::vector<std::string> in(20, std::string(2000, '\0'));
  std::vector<size_t> lengths(20);
  std::vector<OperationOr> receives;
  for (size_t i = 10; i < 20; ++i) receives.push_back(group.Receive(left, 32767, To(in[i]), &lengths[i], {}));
  for (size_t i = 0; i < 10; ++i) receives.push_back(group.Receive(left, 7, To(in[i]), &lengths[i], {}));
  while (!receives.empty()) {
    EXPECT_EQ(End(receives.back()), absl::OkStatus());
    receives.pop_back();
  }
  for (size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(in[i].substr(0, lengths[i]), Text(static_cast<int>(i), group.rank(), 100 * i)) << i;
  }
  for (OperationOr& send : sends) EXPECT_EQ(End(send), absl::OkStatus());
}

void AllgathervUnequal(Group& group) {
  for (int round = 0; round < 50; ++round) {
    // The last rank of each round sends nothing.
    const auto bytes = [&](int rank) {
      return static_cast<size_t>((rank + round) % group.size()) * 1000 + static_cast<size_t>(round % 3);
    };
    const std::string own = Text(group.rank(), round, bytes(group.rank()));
    Places to(group.size(), 10000);
    ASSERT_EQ(End(group.Allgatherv(From(own), to.buffers, absl::MakeSpan(to.lengths), {})), absl::OkStatus());
    for (int rank = 0; rank < group.size(); ++rank) {
      ASSERT_EQ(to.Got(rank), Text(rank, round, bytes(rank))) << "from " << rank << " in round " << round;
    }
  }
}

void AlltoallvUnequal(Group& group) {
  for (int round = 0; round < 50; ++round) {
    const auto bytes = [&](int from, int to) {
      return static_cast<size_t>((from * 3 + to * 5 + round) % 7) * 777;
    };
    std::vector<std::string> own;
    std::vector<ConstBuffer> from;
    for (int to = 0; to < group.size(); ++to) own.push_back(Text(group.rank(), to, bytes(group.rank(), to)));
    for (const std::string& text : own) from.push_back(From(text));
    Places to(group.size(), 6 * 777);
    ASSERT_EQ(End(group.Alltoallv(from, to.buffers, absl::MakeSpan(to.lengths), {})), absl::OkStatus());
    for (int rank = 0; rank < group.size(); ++rank) {
      ASSERT_EQ(to.Got(rank), Text(rank, group.rank(), bytes(rank, group.rank())))
          << "from " << rank << " in round " << round;
    }
  }
}

// Many rounds are started before any is ended, the ranks' in different orders.
void MessagesWithAllOthers(Group& group) {
  constexpr int kRounds = 30;
  const auto bytes = [](int from, int to, int round) {
    return static_cast<size_t>((from * 3 + to * 5 + round) % 7) * 777;
  };
  std::vector<Places> places(kRounds, Places(group.size(), 6 * 777));
  std::vector<OperationOr> receives;
  for (int round = 0; round < kRounds; ++round) {
    // Places was copied, and its buffers with it.
    for (int r = 0; r < group.size(); ++r) places[round].buffers[r] = To(places[round].texts[r]);
    receives.push_back(
        group.ReceiveFromOthers(round % 2, places[round].buffers, absl::MakeSpan(places[round].lengths), {}));
  }
  std::vector<std::string> own;
  std::vector<OperationOr> sends;
  own.reserve(static_cast<size_t>(kRounds * group.size()));
  for (int i = 0; i < kRounds; ++i) {
    // Even ranks send the rounds of tag 0 first, odd ones those of tag 1.
    const int round = 2 * (i % (kRounds / 2)) + (i / (kRounds / 2) + group.rank()) % 2;
    std::vector<ConstBuffer> from;
    for (int to = 0; to < group.size(); ++to) {
      own.push_back(Text(group.rank() + round, to, bytes(group.rank(), to, round)));
      from.push_back(From(own.back()));
    }
    sends.push_back(group.SendToOthers(round % 2, from, {}));
  }
  for (int round = 0; round < kRounds; ++round) {
    ASSERT_EQ(End(receives[static_cast<size_t>(round)]), absl::OkStatus());
    for (int rank = 0; rank < group.size(); ++rank) {
      if (rank == group.rank()) continue;
      ASSERT_EQ(places[round].Got(rank), Text(rank + round, group.rank(), bytes(rank, group.rank(), round)))
          << "from " << rank << " in round " << round;
    }
    EXPECT_EQ(places[round].lengths[group.rank()], 12345u) << "the own slot is left alone";
  }
  for (const OperationOr& send : sends) EXPECT_EQ(End(send), absl::OkStatus());
}

void BigMessages(Group& group) {
  // Pieces of a prime length, so that no chunk of the transport's can stand in another's place unnoticed.
  const auto big = [](int rank) {
    const std::string piece = Text(rank, 0, 10007);
    std::string text;
    while (text.size() < 20'000'000) text += piece;
    return text.substr(0, 20'000'000 + static_cast<size_t>(rank));
  };
  const std::string own = big(group.rank());
  Places to(group.size(), 20'000'100);
  ASSERT_EQ(End(group.Allgatherv(From(own), to.buffers, absl::MakeSpan(to.lengths), {})), absl::OkStatus());
  for (int rank = 0; rank < group.size(); ++rank) EXPECT_TRUE(to.Got(rank) == big(rank)) << "from " << rank;
}

// A message that does not fit is reported, writes nothing beyond its place, and the group goes on.
void MessageLongerThanCapacity(Group& group) {
  const bool culprit = group.rank() == group.size() - 1;
  for (const size_t capacity : {size_t{0}, size_t{10}, size_t{200000}}) {
    const std::string own = Text(group.rank(), 0, culprit ? capacity + 1 : capacity);
    Places to(group.size(), capacity + 16);
    for (Buffer& buffer : to.buffers) buffer.bytes = capacity;
    EXPECT_EQ(EndCode(group.Allgatherv(From(own), to.buffers, absl::MakeSpan(to.lengths), {})),
              absl::StatusCode::kDataLoss);
    for (const std::string& text : to.texts) EXPECT_EQ(text.substr(capacity), std::string(16, '\x5a'));
    EXPECT_EQ(EndCode(group.Barrier()), absl::StatusCode::kOk);
  }
}

template <typename T>
void SumsOf(Group& group, wire::DType dtype, size_t count, bool in_place) {
  std::vector<T> in(count);
  for (size_t i = 0; i < count; ++i) {
    in[i] = static_cast<T>(group.rank() + 1) / static_cast<T>(3 + i % 101);  // sums round
  }
  std::vector<T> out(count, static_cast<T>(-1));
  if (in_place) out = in;
  ASSERT_EQ(End(group.Allreduce(in_place ? out.data() : in.data(), out.data(), count, dtype, {})),
            absl::OkStatus());
  const double ranks = group.size() * (group.size() + 1) / 2.0;
  for (size_t i = 0; i < count; ++i) {
    const double expected = ranks / static_cast<double>(3 + i % 101);
    ASSERT_NEAR(out[i], expected, 1e-6 * expected) << "element " << i << " of " << count;
  }
  // All ranks hold the same bits.
  const size_t bytes = count * sizeof(T);
  Places to(group.size(), bytes);
  ASSERT_EQ(End(group.Allgatherv({out.data(), bytes}, to.buffers, absl::MakeSpan(to.lengths), {})),
            absl::OkStatus());
  for (const std::string& other : to.texts) EXPECT_TRUE(other == to.texts[0]) << count;
}

void Allreduce(Group& group) {
  const bool odd = group.rank() % 2 == 1;
  for (const bool in_place : {false, true, odd}) {
    for (const size_t count : {size_t{0}, size_t{1}, size_t{3}, size_t{1000}, size_t{300001}}) {
      SumsOf<float>(group, wire::DType::kFloat32, count, in_place);
      SumsOf<double>(group, wire::DType::kFloat64, count, in_place);
    }
  }
}

void Broadcast(Group& group) {
  for (int root = 0; root < group.size(); ++root) {
    for (const size_t bytes :
         {size_t{0}, size_t{1}, size_t{64 * 1024}, size_t{64 * 1024 + 1}, size_t{500000}}) {
      const std::string expected = Text(root, 1, bytes);
      std::string text = group.rank() == root ? expected : std::string(bytes, '\0');
      ASSERT_EQ(End(group.Broadcast(To(text), root, {})), absl::OkStatus());
      EXPECT_TRUE(text == expected) << bytes << " bytes from " << root;
    }
  }
}

// Operations of every kind under way at once, ended in another order than they were started.
void ManyInFlight(Group& group) {
  constexpr int kRounds = 40;
  std::vector<OperationOr> operations;
  std::vector<std::unique_ptr<Places>> places;
  std::vector<std::string> own;
  std::vector<std::vector<float>> sums;
  own.reserve(kRounds);
  sums.reserve(kRounds);
  for (int round = 0; round < kRounds; ++round) {
    own.push_back(Text(group.rank(), round, static_cast<size_t>(1000 * (round % 5) + group.rank())));
    places.push_back(std::make_unique<Places>(group.size(), 5000));
    operations.push_back(group.Allgatherv(From(own.back()), places.back()->buffers,
                                          absl::MakeSpan(places.back()->lengths), {}));
    sums.emplace_back(5000, static_cast<float>(group.rank() + round));
    operations.push_back(group.Allreduce(sums.back().data(), sums.back().data(), sums.back().size(),
                                         wire::DType::kFloat32, {}));
    operations.push_back(group.Barrier());
  }
  for (size_t i = operations.size(); i-- > 0;) EXPECT_EQ(End(operations[i]), absl::OkStatus()) << i;
  for (int round = 0; round < kRounds; ++round) {
    for (int rank = 0; rank < group.size(); ++rank) {
      EXPECT_EQ(places[static_cast<size_t>(round)]->Got(rank),
                Text(rank, round, static_cast<size_t>(1000 * (round % 5) + rank)));
    }
    const auto expected = static_cast<float>(group.size() * (group.size() - 1) / 2 + round * group.size());
    EXPECT_EQ(sums[static_cast<size_t>(round)], std::vector<float>(5000, expected));
  }
}

// Test alone is enough to bring an operation to its end.
void EndByTest(Group& group) {
  const std::string own = Text(group.rank(), 0, 100000);
  Places to(group.size(), own.size());
  OperationOr operation = group.Allgatherv(From(own), to.buffers, absl::MakeSpan(to.lengths), {});
  ASSERT_EQ(operation.status(), absl::OkStatus());
  absl::StatusOr<bool> ended = false;
  while (ended.ok() && !*ended) ended = (*operation)->Test();
  ASSERT_EQ(ended.status(), absl::OkStatus());
  for (int rank = 0; rank < group.size(); ++rank) EXPECT_EQ(to.Got(rank), Text(rank, 0, 100000));
  EXPECT_EQ(End(operation), absl::OkStatus());  // again, after the end
}

void BytesSent(Group& group) {
  const auto n = static_cast<uint64_t>(group.size());
  uint64_t before = group.bytes_sent();
  const auto since = [&] { return group.bytes_sent() - std::exchange(before, group.bytes_sent()); };

  const std::string own(1000, 'x');
  Places to(group.size(), own.size());
  ASSERT_EQ(End(group.Allgatherv(From(own), to.buffers, absl::MakeSpan(to.lengths), {})), absl::OkStatus());
  EXPECT_EQ(since(), (n - 1) * 1000);

  const std::vector<ConstBuffer> from(group.size(), From(own));
  ASSERT_EQ(End(group.Alltoallv(from, to.buffers, absl::MakeSpan(to.lengths), {})), absl::OkStatus());
  EXPECT_EQ(since(), (n - 1) * 1000);

  OperationOr receives = group.ReceiveFromOthers(0, to.buffers, absl::MakeSpan(to.lengths), {});
  OperationOr sends = group.SendToOthers(0, from, {});
  ASSERT_EQ(End(receives), absl::OkStatus());
  ASSERT_EQ(End(sends), absl::OkStatus());
  EXPECT_EQ(since(), (n - 1) * 1000);

  std::vector<float> sum(1200);
  ASSERT_EQ(End(group.Allreduce(sum.data(), sum.data(), sum.size(), wire::DType::kFloat32, {})),
            absl::OkStatus());
  EXPECT_EQ(since(), 2 * (n - 1) * 4800 / n);

  for (const size_t bytes : {size_t{100}, size_t{100000}}) {
    std::string text(bytes, 'y');
    ASSERT_EQ(End(group.Broadcast(To(text), 0, {})), absl::OkStatus());
    EXPECT_EQ(since(), group.rank() == 0 ? (n - 1) * bytes : 0);
  }

  // To oneself costs nothing.
  std::string in(1000, '\0');
  size_t length = 0;
  OperationOr receive = group.Receive(group.rank(), 0, To(in), &length, {});
  OperationOr send = group.Send(group.rank(), 0, From(own), {});
  EXPECT_EQ(End(send), absl::OkStatus());
  EXPECT_EQ(End(receive), absl::OkStatus());
  EXPECT_EQ(in, own);
  EXPECT_EQ(since(), 0u);
}

// Wrong calls are refused before anything is sent; the group goes on.
void WrongCalls(Group& group) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  std::string text(8, '\0');
  size_t length = 0;
  EXPECT_EQ(group.Send(group.size(), 0, From(text), {}).status().code(), kInvalid);
  EXPECT_EQ(group.Send(-1, 0, From(text), {}).status().code(), kInvalid);
  EXPECT_EQ(group.Receive(0, -1, To(text), &length, {}).status().code(), kInvalid);
  EXPECT_EQ(group.Receive(0, 1 << 15, To(text), &length, {}).status().code(), kInvalid);
  EXPECT_EQ(group.Send(0, 0, {nullptr, 8}, {}).status().code(), kInvalid);
  EXPECT_EQ(group.Broadcast(To(text), group.size(), {}).status().code(), kInvalid);
  Places to(group.size() + 1, 8);
  EXPECT_EQ(group.Allgatherv(From(text), to.buffers, absl::MakeSpan(to.lengths), {}).status().code(),
            kInvalid);
  EXPECT_EQ(
      group.Alltoallv({}, absl::MakeSpan(to.buffers).subspan(1), absl::MakeSpan(to.lengths).subspan(1), {})
          .status()
          .code(),
      kInvalid);
  EXPECT_EQ(group.SendToOthers(0, {}, {}).status().code(), kInvalid);
  EXPECT_EQ(group.ReceiveFromOthers(0, to.buffers, absl::MakeSpan(to.lengths), {}).status().code(), kInvalid);
  if (!group.capabilities().device_memory) {
    EXPECT_EQ(group.Send(0, 0, {text.data(), 8, Memory::kDevice}, {}).status().code(), kInvalid);
  }
  EXPECT_EQ(group.Allreduce(text.data(), text.data(), 4, wire::DType::kFloat16, {}).status().code(),
            absl::StatusCode::kUnimplemented);
  if (!group.capabilities().elastic) {
    EXPECT_EQ(group.Shrink({}).status().code(), absl::StatusCode::kUnimplemented);
  }
  EXPECT_EQ(End(group.Barrier()), absl::OkStatus());
}

}  // namespace

const std::vector<ConformanceCase>& ConformanceCases() {
  static const auto* const cases = new std::vector<ConformanceCase>{
      {"Identity", Identity},
      {"SendAndReceive", SendAndReceive},
      {"OrderOfMessages", OrderOfMessages},
      {"AllgathervUnequal", AllgathervUnequal},
      {"AlltoallvUnequal", AlltoallvUnequal},
      {"MessagesWithAllOthers", MessagesWithAllOthers},
      {"BigMessages", BigMessages},
      {"MessageLongerThanCapacity", MessageLongerThanCapacity},
      {"Allreduce", Allreduce},
      {"Broadcast", Broadcast},
      {"ManyInFlight", ManyInFlight},
      {"EndByTest", EndByTest},
      {"BytesSent", BytesSent},
      {"WrongCalls", WrongCalls},
  };
  return *cases;
}

}  // namespace terse::transport
