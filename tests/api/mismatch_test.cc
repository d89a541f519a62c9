// SPDX-License-Identifier: Apache-2.0
//
// Ranks that disagree, and ranks that leave: a clear error on every rank, in bounded time, never a hang
// and never a wrong sum.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/api/ranks.h"

namespace terse::testing {
namespace {

using ::testing::AnyOf;
using ::testing::Eq;
using ::testing::HasSubstr;

constexpr int kSize = 3;

// Every rank got TERSE_MISMATCH with the same words, and these among them.
void ExpectMismatch(const std::vector<Outcome>& outcomes, const std::vector<std::string>& words) {
  for (size_t rank = 0; rank < outcomes.size(); ++rank) {
    SCOPED_TRACE("rank " + std::to_string(rank));
    EXPECT_EQ(outcomes[rank].status, TERSE_MISMATCH) << outcomes[rank].detail;
    for (const std::string& word : words) EXPECT_THAT(outcomes[rank].detail, HasSubstr(word));
    EXPECT_EQ(outcomes[rank].detail, outcomes[0].detail);
  }
}

void Exchange(Group& group, TensorId tensor, size_t n) {
  Vector gradient(n, 1);
  group.Allreduce(tensor, gradient.data(), gradient.data());
}

TEST(Mismatch, Configuration) {
  const auto outcomes = RunRanks(
      kSize,
      [](int rank) {
        return std::string("compressor: topk\ntopk: {density: ") + (rank == 2 ? "0.02" : "0.01") + "}\n";
      },
      [](Group&, int) { ADD_FAILURE() << "opened"; });
  ExpectMismatch(outcomes, {"topk.density", "0.01", "0.02", "rank 2"});
}

TEST(Mismatch, TheSameSettingsWrittenDifferentlyAreTheSame) {
  const auto outcomes = RunRanks(
      2, [](int rank) { return rank == 0 ? "topk: {density: 0.010}" : "topk:\n  density: 1e-2\nseed: 0"; },
      [](Group& group, int) { Exchange(group, group.Register("weight", {10}), 10); });
  for (const Outcome& outcome : outcomes) EXPECT_EQ(outcome.status, TERSE_OK) << outcome.detail;
}

TEST(Mismatch, SizeOfATensor) {
  ExpectMismatch(RunRanks(kSize, "",
                          [](Group& group, int rank) {
                            Exchange(group, group.Register("first", {8}), 8);
                            const int64_t n = rank == 1 ? 90 : 100;
                            Exchange(group, group.Register("second", {n}), static_cast<size_t>(n));
                          }),
                 {"second", "90", "100", "rank 1"});
}

TEST(Mismatch, TypeOfATensor) {
  ExpectMismatch(RunRanks(kSize, "",
                          [](Group& group, int rank) {
                            const terse_dtype_t dtype = rank == 1 ? TERSE_FLOAT64 : TERSE_FLOAT32;
                            Exchange(group, group.Register("weight", {100}, dtype), 200);
                          }),
                 {"weight", "float32", "float64"});
}

TEST(Mismatch, NameOfATensor) {
  ExpectMismatch(RunRanks(kSize, "",
                          [](Group& group, int rank) {
                            Exchange(group, group.Register(rank == 2 ? "wieght" : "weight", {100}), 100);
                          }),
                 {"wieght", "weight", "rank 2"});
}

TEST(Mismatch, OrderOfRegistration) {
  ExpectMismatch(RunRanks(kSize, "",
                          [](Group& group, int rank) {
                            const TensorId a = group.Register(rank == 0 ? "a" : "b", {100});
                            group.Register(rank == 0 ? "b" : "a", {100});
                            Exchange(group, a, 100);
                          }),
                 {"'a'", "'b'"});
}

TEST(Mismatch, TensorThatARankDoesNotHave) {
  ExpectMismatch(RunRanks(kSize, "",
                          [](Group& group, int rank) {
                            const TensorId shared = group.Register("shared", {100});
                            if (rank == 1) group.Register("extra", {100});
                            Exchange(group, shared, 100);
                          }),
                 {"extra", "rank 1"});
}

TEST(Mismatch, CallsInDifferentOrder) {
  ExpectMismatch(RunRanks(kSize, "",
                          [](Group& group, int rank) {
                            const TensorId a = group.Register("alpha", {100});
                            const TensorId b = group.Register("beta", {100});
                            Exchange(group, rank == 2 ? b : a, 100);
                          }),
                 {"alpha", "beta", "rank 2"});
}

TEST(Mismatch, ExchangeAgainstStep) {
  ExpectMismatch(RunRanks(kSize, "",
                          [](Group& group, int rank) {
                            const TensorId tensor = group.Register("weight", {100});
                            if (rank == 1) {
                              group.Step();
                            } else {
                              Exchange(group, tensor, 100);
                            }
                          }),
                 {"terse_step", "terse_allreduce", "rank 1"});
}

TEST(Mismatch, RequestThatARankNeverSubmits) {
  ExpectMismatch(RunRanks(kSize, "",
                          [](Group& group, int rank) {
                            const TensorId tensor = group.Register("weight", {100});
                            Vector gradient(100, 1);
                            Request request;
                            if (rank != 1) {
                              request = group.AllreduceAsync(tensor, gradient.data(), gradient.data());
                            }
                            group.Step();
                          }),
                 {"weight", "rank 1"});
}

TEST(Mismatch, DifferentApplied) {
  ExpectMismatch(RunRanks(kSize, "",
                          [](Group& group, int rank) {
                            Exchange(group, group.Register("weight", {5000}), 5000);
                            group.Step(rank == 0 ? 1.0 : 0.5);
                          }),
                 {"applied", "0.5"});
}

TEST(Mismatch, DifferentLossScale) {
  ExpectMismatch(RunRanks(kSize, "",
                          [](Group& group, int rank) {
                            const TensorId tensor = group.Register("weight", {5000});
                            group.SetLossScale(rank == 0 ? 1024 : 512);
                            Exchange(group, tensor, 5000);
                          }),
                 {"scale", "1024", "512"});
}

TEST(Mismatch, GroupStaysUsable) {
  RunRanksOk(kSize, "compressor: fp16\nmin_elements: 1\n", [](Group& group, int rank) {
    const TensorId a = group.Register("a", {100});
    const TensorId b = group.Register("b", {100});
    Vector gradient(100, static_cast<float>(rank));
    Vector out(100);
    EXPECT_EQ(terse_allreduce(group.handle(), rank == 0 ? a : b, gradient.data(), out.data()),
              TERSE_MISMATCH);
    group.Allreduce(a, gradient.data(), out.data());
    EXPECT_EQ(out, Vector(100, 1));
  });
}

class EveryExchange : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Leaving, EveryExchange, ::testing::Values("none", "topk", "quantize", "powersgd"),
                         [](const auto& instance) { return instance.param; });

TEST_P(EveryExchange, ARankThatClosesItsGroupIsNamed) {
  const auto outcomes = RunRanks(kSize, "compressor: " + GetParam() + "\n", [](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {50, 100});
    Exchange(group, tensor, 5000);
    group.Step();
    if (rank == 2) return;  // and its group is closed
    Exchange(group, tensor, 5000);
    ADD_FAILURE() << "the exchange succeeded without rank 2";
  });
  for (const int rank : {0, 1}) {
    EXPECT_THAT(outcomes[rank].status, AnyOf(Eq(TERSE_UNAVAILABLE), Eq(TERSE_MISMATCH)));
    EXPECT_THAT(outcomes[rank].detail, HasSubstr("rank 2"));
  }
}

TEST_P(EveryExchange, ARankThatFallsSilentIsNamedAfterTheTimeout) {
  const std::string hub = UniqueHub();
  terse_group_t* groups[kSize] = {};
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < kSize; ++rank) {
    threads.emplace_back([&, rank] {
      const std::string yaml = InprocYaml(rank, kSize, hub, "compressor: " + GetParam() + "\n", 1);
      ASSERT_EQ(terse_group_open(yaml.c_str(), &groups[rank]), TERSE_OK) << terse_last_error();
      terse_tensor_t tensor = -1;
      const int64_t shape[] = {50, 100};
      ASSERT_EQ(terse_tensor_register(groups[rank], "weight", TERSE_FLOAT32, shape, 2, &tensor), TERSE_OK);
      Vector gradient(5000, 1);
      Vector out(5000);
      EXPECT_EQ(terse_allreduce(groups[rank], tensor, gradient.data(), out.data()), TERSE_OK);
      if (rank == 2) return;

      const terse_status_t lost = terse_allreduce(groups[rank], tensor, gradient.data(), out.data());
      const std::string detail = terse_last_error();
      EXPECT_THAT(lost, AnyOf(Eq(TERSE_TIMEOUT), Eq(TERSE_UNAVAILABLE)));
      EXPECT_THAT(detail, HasSubstr("rank 2"));
      // The group is broken from here on, and says why without waiting again.
      EXPECT_EQ(terse_allreduce(groups[rank], tensor, gradient.data(), out.data()), lost);
      EXPECT_EQ(terse_step(groups[rank], 1.0), lost);
      EXPECT_THAT(terse_last_error(), HasSubstr("rank 2"));
    });
  }
  threads.clear();
  for (terse_group_t* group : groups) (void)terse_group_close(group);
}

}  // namespace
}  // namespace terse::testing
