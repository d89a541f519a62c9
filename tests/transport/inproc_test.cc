// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <latch>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "tests/transport/conformance.h"
#include "transport/loader.h"

namespace terse::transport {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::HasSubstr;
using GroupOr = absl::StatusOr<std::unique_ptr<Group>>;

GroupOr Open(int rank, int size, milliseconds timeout = seconds(60), std::string hub = "test") {
  OpenOptions options;
  options.rank = rank;
  options.world_size = size;
  options.hub = std::move(hub);
  options.timeout = timeout;
  return OpenGroup("inproc", options);
}

// Runs `body` as each rank, on a thread of its own.
void OnEachRank(int size, const std::function<void(std::unique_ptr<Group>)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      GroupOr group = Open(rank, size);
      ASSERT_EQ(group.status(), absl::OkStatus());
      body(*std::move(group));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

absl::Status End(const OperationOr& operation, milliseconds patience = seconds(60)) {
  return operation.ok() ? (*operation)->Wait(patience) : operation.status();
}

class InprocConformance : public testing::TestWithParam<std::tuple<ConformanceCase, int>> {};

TEST_P(InprocConformance, Holds) {
  const auto& [conformance_case, size] = GetParam();
  OnEachRank(size, [run = conformance_case.run](std::unique_ptr<Group> group) { run(*group); });
}

INSTANTIATE_TEST_SUITE_P(Inproc, InprocConformance,
                         testing::Combine(testing::ValuesIn(ConformanceCases()), testing::Range(1, 5)),
                         [](const auto& row) {
                           return std::get<0>(row.param).name + std::to_string(std::get<1>(row.param));
                         });

TEST(Inproc, SumsInRankOrder) {
  OnEachRank(3, [](std::unique_ptr<Group> group) {
    // (1 + 2^24) + 1 loses both ones in fp32; any other order keeps something of them.
    const float parts[] = {1.0f, 16777216.0f, 1.0f};
    float sum = parts[group->rank()];
    ASSERT_EQ(End(group->Allreduce(&sum, &sum, 1, wire::DType::kFloat32, {})), absl::OkStatus());
    EXPECT_EQ(sum, (parts[0] + parts[1]) + parts[2]);
  });
}

TEST(Inproc, OpenNamesWhoDidNotCome) {
  const GroupOr group = Open(1, 3, milliseconds(20));
  EXPECT_EQ(group.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(group.status().message()), HasSubstr("rank(s) 0, 2 did not come"));
}

TEST(Inproc, OpenRefusesWrongRanks) {
  EXPECT_EQ(Open(3, 3).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Open(-1, 3).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Open(0, 0).status().code(), absl::StatusCode::kInvalidArgument);
}

// A group that is complete makes room for the next under the same name; other names never mix.
TEST(Inproc, NamesMeetAgain) {
  std::vector<std::thread> threads;
  for (const std::string hub : {"a", "b"}) {
    for (int rank = 0; rank < 2; ++rank) {
      threads.emplace_back([hub, rank] {
        for (int round = 0; round < 20; ++round) {
          GroupOr group = Open(rank, 2, seconds(60), hub);
          ASSERT_EQ(group.status(), absl::OkStatus());
          double sum = hub == "a" ? 1 : 10;
          ASSERT_EQ(End((*group)->Allreduce(&sum, &sum, 1, wire::DType::kFloat64, {})), absl::OkStatus());
          ASSERT_EQ(sum, hub == "a" ? 2 : 20);
        }
      });
    }
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Inproc, LostRankEndsWaits) {
  OnEachRank(3, [](std::unique_ptr<Group> group) {
    if (group->rank() == 2) return;  // its group is destroyed here
    OperationOr operation = group->Barrier();
    const absl::Status lost = End(operation);
    EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(lost.message()), HasSubstr("rank 2"));
    // The group is broken: the first reason is given again.
    EXPECT_EQ(group->Barrier().status(), lost);
    EXPECT_EQ((*operation)->Test().status(), lost);
  });
}

// What a rank sent before it left still arrives.
TEST(Inproc, LastWordsArrive) {
  OnEachRank(2, [](std::unique_ptr<Group> group) {
    int word = 42;
    size_t length = 0;
    if (group->rank() == 0) {
      EXPECT_EQ(End(group->Send(1, 0, {&word, sizeof(word)}, {})), absl::OkStatus());
      return;
    }
    int heard = 0;
    std::this_thread::sleep_for(milliseconds(20));
    EXPECT_EQ(End(group->Receive(0, 0, {&heard, sizeof(heard)}, &length, {})), absl::OkStatus());
    EXPECT_EQ(heard, word);
    EXPECT_EQ(End(group->Receive(0, 0, {&heard, sizeof(heard)}, &length, {})).code(),
              absl::StatusCode::kUnavailable);
  });
}

TEST(Inproc, SilentRankIsNamedAtTheDeadline) {
  std::latch given_up(1);
  OnEachRank(2, [&](std::unique_ptr<Group> group) {
    if (group->rank() == 1) {
      given_up.wait();  // there, but without a word
      return;
    }
    const absl::Status late = End(group->Barrier(), milliseconds(30));
    EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(std::string(late.message()), AllOf(HasSubstr("30 ms"), HasSubstr("rank 1")));
    EXPECT_EQ(group->Send(1, 0, {}, {}).status(), late);
    given_up.count_down();
  });
}

TEST(Inproc, AbandonedOperationBreaksTheGroup) {
  OnEachRank(2, [](std::unique_ptr<Group> group) {
    size_t length = 0;
    { OperationOr abandoned = group->Receive(1 - group->rank(), 0, {}, &length, {}); }
    EXPECT_EQ(group->Barrier().status().code(), absl::StatusCode::kFailedPrecondition);
  });
}

TEST(Inproc, AllreduceOfUnequalCountsIsAnError) {
  OnEachRank(2, [](std::unique_ptr<Group> group) {
    std::vector<float> sum(10);
    const size_t count = group->rank() == 0 ? 10 : 9;
    EXPECT_EQ(End(group->Allreduce(sum.data(), sum.data(), count, wire::DType::kFloat32, {})).code(),
              absl::StatusCode::kDataLoss);
  });
}

// Survivors of a loss meet again, renumbered, in a later generation, and can shrink once more.
TEST(Inproc, ShrinkGoesOnWithoutTheLost) {
  OnEachRank(4, [](std::unique_ptr<Group> group) {
    EXPECT_TRUE(group->capabilities().elastic);
    if (group->rank() == 1) return;
    EXPECT_EQ(End(group->Barrier()).code(), absl::StatusCode::kUnavailable);

    GroupOr three = group->Shrink({0, 2, 3});
    ASSERT_EQ(three.status(), absl::OkStatus());
    EXPECT_EQ((*three)->generation(), 1u);
    EXPECT_EQ((*three)->size(), 3);
    EXPECT_EQ((*three)->rank(), group->rank() == 0 ? 0 : group->rank() - 1);
    double sum = group->rank();
    ASSERT_EQ(End((*three)->Allreduce(&sum, &sum, 1, wire::DType::kFloat64, {})), absl::OkStatus());
    EXPECT_EQ(sum, 0 + 2 + 3);

    if ((*three)->rank() == 0) return;
    GroupOr two = (*three)->Shrink({1, 2});
    ASSERT_EQ(two.status(), absl::OkStatus());
    EXPECT_EQ((*two)->generation(), 2u);
    EXPECT_EQ(End((*two)->Barrier()), absl::OkStatus());
  });
}

TEST(Inproc, ShrinkRefusesWrongSurvivors) {
  const GroupOr group = Open(0, 1);
  ASSERT_EQ(group.status(), absl::OkStatus());
  for (const std::vector<int>& survivors : {std::vector<int>{}, {1}, {0, 0}, {0, 1}, {-1, 0}}) {
    EXPECT_EQ((*group)->Shrink(survivors).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace terse::transport
