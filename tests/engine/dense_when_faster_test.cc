// SPDX-License-Identifier: Apache-2.0
//
// `dense_when_faster` in the engine, over links whose time is told by the test: what is decided, and that all
// ranks decide it.
#include <cmath>
#include <limits>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "tests/engine/plans.h"
#include "tests/engine/priced_ranks.h"

namespace terse::engine {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// What the ranks of a test have seen, which must be the same.
class Same {
 public:
  void Add(const std::string& seen) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (seen_.empty()) seen_ = seen;
    EXPECT_EQ(seen_, seen);
  }

 private:
  std::mutex mutex_;
  std::string seen_;
};

std::string BitsOf(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

TEST(DenseWhenFaster, StaysCompressedAndChangesNoBitWhereDenseIsSlower) {
  for (const char* codec : {"quantize", "topk", "onebit", "powersgd", "fp16"}) {
    std::vector<std::string> results[2];
    for (const bool on : {false, true}) {
      RunPriced(3, TestConfig({{"compressor", codec}, {"dense_when_faster", on ? "true" : "false"}}),
                [&](Rank& rank) {
                  rank.link.ms_per_byte = 0.01;
                  rank.Register();
                  for (int step = 0; step < 30; ++step) {
                    rank.Steps(1);
                    EXPECT_FALSE(rank.dense());
                    if (rank.engine.rank() == 1) results[on ? 1 : 0].push_back(BitsOf(rank.out[0]));
                  }
                  EXPECT_EQ(rank.engine.plan_version(), 0u);
                  const nlohmann::json report = rank.Report();
                  EXPECT_EQ(report["dense_when_faster"]["on"], on);
                  EXPECT_EQ(report["tensors"][0].contains("timing"), on);
                  if (!on) return;
                  const nlohmann::json& timing = report["tensors"][0]["timing"];
                  EXPECT_EQ(timing["decision"], "compressed") << codec;
                  EXPECT_LT(timing["compressed_ms"].get<double>(), timing["dense_ms"].get<double>()) << codec;
                  EXPECT_GT(timing["probe_ms"].get<double>(), 0);
                  EXPECT_THAT(report["tensors"][0]["reason"].get<std::string>(),
                              AllOf(StartsWith("configured"), HasSubstr("compressed is faster: ")));
                });
    }
    EXPECT_EQ(results[0], results[1]) << codec << ": a probe must leave no trace";
  }
}

TEST(DenseWhenFaster, WithinAMachineAThirdLessIsNotWorthIt) {
  for (const bool one_machine : {false, true}) {
    RunPriced(
        3, Faster({{"compressor", "fp16"}}),
        [&](Rank& rank) {
          // Half of the bytes, and two messages for one.
          rank.link.ms_per_byte = 0.01;
          rank.link.latency_ms = 2;
          rank.Register();
          rank.Steps(30);
          EXPECT_EQ(rank.dense(), one_machine);
          const nlohmann::json timing = rank.Report()["tensors"][0]["timing"];
          const double part = timing["compressed_ms"].get<double>() / timing["dense_ms"].get<double>();
          EXPECT_GT(part, 0.5);
          EXPECT_LT(part, 0.8);
          EXPECT_THAT(rank.engine.row(0).reason,
                      HasSubstr(one_machine ? "compressed is not much faster: " : "compressed is faster: "));
        },
        one_machine);
  }
}

TEST(DenseWhenFaster, GoesDenseWhereThatIsFasterAndSaysSo) {
  RunPriced(2, Faster(), [](Rank& rank) {
    rank.link.latency_ms = 1;
    rank.Register();
    EXPECT_EQ(rank.UntilSwitched(20), 3) << "one exchange to warm up, two that leave no doubt";
    EXPECT_EQ(rank.engine.row(0).exchange, wire::Exchange::kDense);
    EXPECT_EQ(rank.engine.row(0).reason, "dense is faster: 1 ms < 2 ms");
    EXPECT_EQ(rank.engine.plan_version(), 1u);
    const nlohmann::json report = rank.Report();
    EXPECT_EQ(report["tensors"][0]["reason"], "dense is faster: 1 ms < 2 ms");
    EXPECT_EQ(report["tensors"][0]["timing"]["decision"], "dense");
    const nlohmann::json& events = report["dense_when_faster"]["events"];
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0]["tensor"], "w0");
    EXPECT_EQ(events[0]["step"], 2);
    EXPECT_EQ(events[0]["decision"], "dense");
    EXPECT_EQ(events[0]["changed"], true);
    EXPECT_EQ(events[0]["cause"], "first trial");
    EXPECT_EQ(events[0]["compressed_ms"], 2.0);
    EXPECT_EQ(events[0]["dense_ms"], 1.0);
    rank.Steps(50);
    EXPECT_TRUE(rank.dense());
    EXPECT_EQ(rank.engine.plan_version(), 1u);
  });
}

TEST(DenseWhenFaster, OfALargeTensorAQuarterGoesDenseWhereThatTells) {
  constexpr size_t kLarge = 262'148;
  for (const wire::DType dtype : {wire::DType::kFloat32, wire::DType::kFloat16}) {
    for (const bool tells : {false, true}) {
      // A 50th of dense's bytes; or 7 of 32, which against a quarter would save too little.
      const auto config = tells ? Faster({{"compressor", "topk"}, {"topk.density", "0.01"}})
                                : Faster({{"compressor", "quantize"}, {"quantize.bits", "7"}});
      RunPriced(2, config, [&](Rank& rank) {
        rank.link.ms_per_byte = 0.001;
        ASSERT_TRUE(rank.engine.Register("large", dtype, {kLarge}).ok());
        const std::vector<uint16_t> gradient(2 * kLarge, 0x3C00);
        std::vector<uint16_t> out(2 * kLarge);
        for (int step = 0; step < 10; ++step) {
          const Call call{.tensor = 0, .send = gradient.data(), .recv = out.data()};
          ASSERT_TRUE(rank.engine.Allreduce({call}).ok());
          rank.Step();
        }
        const nlohmann::json report = rank.Report();
        const nlohmann::json& timing = report["tensors"][0]["timing"];
        EXPECT_EQ(timing["decision"], "compressed");
        EXPECT_EQ(timing["dense_part"], tells ? 0.25 : 1);
        EXPECT_EQ(report["dense_when_faster"]["events"][0]["dense_part"], tells ? 0.25 : 1);
        constexpr double kDenseMs = 4e-3 * kLarge;
        EXPECT_NEAR(timing["dense_ms"].get<double>(), kDenseMs, 1e-3 * kDenseMs);
        EXPECT_NEAR(timing["probe_ms"].get<double>(), (tells ? 0.75 : 2.75) * kDenseMs, 2e-3 * kDenseMs);
        EXPECT_EQ(report["tensors"][0]["reason"].get<std::string>().find(" < about ") != std::string::npos,
                  tells);
      });
    }
  }
}

TEST(DenseWhenFaster, DeterministicDenseStaysDeterministic) {
  RunPriced(3, Faster({{"dense", "deterministic"}, {"compressor", "powersgd"}}), [](Rank& rank) {
    // Two all-to-alls of a deterministic sum against the four of two rounds.
    rank.link.latency_ms = 1;
    rank.Register();
    EXPECT_LE(rank.UntilSwitched(20), 6);
    EXPECT_EQ(rank.engine.row(0).exchange, wire::Exchange::kDeterministicDense);
  });
}

TEST(DenseWhenFaster, ComesBackWhenTheNetworkBecomesSlowAndGoesAgain) {
  RunPriced(2, Faster(), [](Rank& rank) {
    rank.link.latency_ms = 1;
    rank.Register();
    rank.Steps(100);
    EXPECT_TRUE(rank.dense());
    rank.link.latency_ms = 0;
    rank.link.ms_per_byte = 0.01;
    EXPECT_LE(rank.UntilSwitched(100), 40) << "five looks, every eighth exchange";
    rank.Steps(10);
    EXPECT_FALSE(rank.dense());
    EXPECT_THAT(rank.engine.row(0).reason, HasSubstr("compressed is faster: "));
    rank.Steps(100);
    EXPECT_FALSE(rank.dense());
    rank.link.latency_ms = 0.1;
    rank.link.ms_per_byte = 0;
    EXPECT_LE(rank.UntilSwitched(400), 400);
    EXPECT_TRUE(rank.dense());
    const nlohmann::json events = rank.Report()["dense_when_faster"]["events"];
    ASSERT_EQ(events.size(), 3u);
    EXPECT_EQ(events[1]["cause"], "exchanges had become slower");
    EXPECT_EQ(events[2]["cause"], "exchanges had become faster");
  });
}

TEST(DenseWhenFaster, TriesAgainAfterAWhileInAnyCase) {
  RunPriced(2, Faster(), [](Rank& rank) {
    rank.link.latency_ms = 1;
    rank.Register();
    rank.Steps(3);
    EXPECT_TRUE(rank.dense());
    // A trial of 3 exchanges of 2 ms is a hundredth of 600 of 1 ms.
    EXPECT_EQ(rank.UntilSwitched(1000), 600);
    EXPECT_THAT(rank.engine.row(0).reason, HasSubstr("on trial"));
    EXPECT_EQ(rank.UntilSwitched(1000), 3);
    EXPECT_EQ(rank.UntilSwitched(2000), 1200) << "twice the wait when nothing has changed";
    EXPECT_EQ(rank.Report()["dense_when_faster"]["events"][1]["cause"], "a trial was due");
  });
}

// Every rank has a link of its own, and half of them alone would decide otherwise.
TEST(DenseWhenFaster, RanksThatMeasureDifferentlyDecideAlike) {
  for (const bool slow_ranks : {false, true}) {
    Same rows;
    std::vector<Same> results(60);
    RunPriced(4, Faster(), [&](Rank& rank) {
      // The slowest rank counts: its 2 ms for a dense exchange, or the others' latency.
      const bool slow = rank.engine.rank() % 2 == 1;
      rank.link.latency_ms = slow ? 0 : 1;
      rank.link.ms_per_byte = !slow ? 0 : slow_ranks ? 0.1 : 1e-5;
      rank.Register();
      std::string seen;
      for (Same& result : results) {
        rank.Steps(1);
        absl::StrAppend(&seen, wire::RowText(rank.engine.row(0)), rank.engine.row(0).reason, "\n");
        result.Add(BitsOf(rank.out[0]));
      }
      EXPECT_EQ(rank.dense(), !slow_ranks);
      rows.Add(seen);
    });
  }
}

// Noise that has nothing to do with what is exchanged: whatever it leads to, it is one decision.
TEST(DenseWhenFaster, NoiseNeverDividesTheRanks) {
  for (const char* method : {"allreduce", "dgc", "onebit_adam"}) {
    Same rows;
    std::vector<Same> results(520);
    const wire::Config config = Faster({{"method", method},
                                        {"adam.freeze", "5"},
                                        {"dgc.density", "0.05"},
                                        {"topk.exchange", "sparse_reduce"}});
    RunPriced(3, config, [&](Rank& rank) {
      std::mt19937 noise(static_cast<uint32_t>(rank.engine.rank()));
      rank.Register(3);
      std::string seen;
      int switches = 0;
      for (size_t step = 0; step < results.size(); ++step) {
        Turn(step / 130 % 2 == 0, &rank.link, 1 + noise() % 3);
        const bool was = rank.dense();
        rank.Exchange();
        rank.Step(step % 7 == 3 ? 0.0 : 1.0);
        switches += rank.dense() != was ? 1 : 0;
        absl::StrAppend(&seen, rank.engine.plan_version(), rank.engine.row(0).reason,
                        rank.engine.row(2).reason, "\n");
        results[step].Add(BitsOf(rank.out[0]) + BitsOf(rank.out[2]));
      }
      EXPECT_GE(switches, 2) << method;
      rows.Add(seen);
    });
  }
}

TEST(DenseWhenFaster, AJobThatNeverCallsStepIsServedToo) {
  RunPriced(2, Faster(), [](Rank& rank) {
    rank.link.latency_ms = 1;
    rank.Register(2);
    int compressed = 0;
    for (int i = 0; i < 50; ++i) {
      rank.Exchange();
      compressed += rank.dense() ? 0 : 1;
    }
    EXPECT_EQ(compressed, 3);
    EXPECT_TRUE(rank.dense(0));
    EXPECT_TRUE(rank.dense(1));
    EXPECT_EQ(rank.engine.step(), 0u);
  });
}

// Requests that are tested and waited for in different orders, calls in parts.
TEST(DenseWhenFaster, AsynchronousCalls) {
  Same rows;
  RunPriced(3, Faster(), [&](Rank& rank) {
    rank.link.latency_ms = 1;
    rank.Register(3);
    std::string seen;
    for (int step = 0; step < 40; ++step) {
      for (uint32_t id = 0; id < 3; ++id) {
        ASSERT_TRUE(
            rank.engine.Submit({.tensor = id, .send = rank.gradient.data(), .recv = rank.out[id].data()})
                .ok());
        for (int i = 0; i < rank.engine.rank() + step % 3; ++i) {
          const absl::StatusOr<bool> done = rank.engine.Test(id);
          ASSERT_TRUE(done.ok()) << done.status();
          if (*done) break;
        }
      }
      for (const uint32_t id : {2u, 0u, 1u}) {
        const absl::Status status = rank.engine.Wait(id);
        ASSERT_TRUE(status.ok()) << status;
      }
      rank.Step();
      absl::StrAppend(&seen, rank.dense(0), rank.dense(1), rank.dense(2));
    }
    EXPECT_THAT(seen, ::testing::EndsWith("111"));
    rows.Add(seen);
  });
}

TEST(DenseWhenFaster, EachTensorHasADecisionOfItsOwn) {
  RunPriced(2, Faster({{"min_elements", "600"}}), [](Rank& rank) {
    // A message costs as much as 20,000 bytes: a dense exchange of 700 elements is faster, of 70,000 it is
    // not.
    rank.link.latency_ms = 2;
    rank.link.ms_per_byte = 1e-4;
    rank.Register();
    const auto large = rank.engine.Register("large", wire::DType::kFloat32, {70000});
    const auto small = rank.engine.Register("small", wire::DType::kFloat32, {500});
    ASSERT_TRUE(large.ok() && small.ok());
    std::vector<float> gradient(70000, 0.5f);
    std::vector<float> result(70000);
    for (int step = 0; step < 40; ++step) {
      for (const uint32_t id : {0u, *large, *small}) {
        ASSERT_TRUE(
            rank.engine.Allreduce({{.tensor = id, .send = gradient.data(), .recv = result.data()}}).ok());
      }
      rank.Step();
    }
    EXPECT_TRUE(rank.dense(0));
    EXPECT_FALSE(rank.dense(*large));
    const nlohmann::json tensors = rank.Report()["tensors"];
    EXPECT_FALSE(tensors[*small].contains("timing"));
    EXPECT_EQ(tensors[*small]["reason"], "below min_elements (500 < 600)");
  });
}

// More than a round of announcements can tell.
TEST(DenseWhenFaster, ManyTensors) {
  RunPriced(2, Faster(), [](Rank& rank) {
    rank.link.ms_per_byte = 0.01;
    rank.Register(1300);
    rank.Steps(40);
    EXPECT_EQ(rank.Report()["dense_when_faster"]["decisions"], 1300u);
    EXPECT_EQ(rank.Report()["dense_when_faster"]["events"].size(), 1000u) << "the last of them";
    for (uint32_t id = 0; id < 1300; ++id) EXPECT_FALSE(rank.dense(id));
  });
}

TEST(DenseWhenFaster, EveryTypeAndLossScale) {
  for (const wire::DType dtype : {wire::DType::kFloat16, wire::DType::kBFloat16, wire::DType::kFloat64}) {
    RunPriced(2, Faster(), [&](Rank& rank) {
      rank.link.latency_ms = 1;
      const auto id = rank.engine.Register("w", dtype, {kN});
      ASSERT_TRUE(id.ok() && rank.engine.SetLossScale(8).ok());
      const std::vector<std::byte> zeros(kN * wire::DTypeSize(dtype));
      std::vector<std::byte> result = zeros;
      for (int step = 0; step < 5; ++step) {
        ASSERT_TRUE(
            rank.engine.Allreduce({{.tensor = *id, .send = zeros.data(), .recv = result.data()}}).ok());
        rank.Step();
        EXPECT_EQ(result, zeros);
      }
      EXPECT_TRUE(rank.dense());
    });
  }
}

TEST(DenseWhenFaster, StepsThatAreNotFiniteAreNoMeasure) {
  RunPriced(2, Faster(), [](Rank& rank) {
    rank.link.latency_ms = 1;
    rank.Register();
    for (int step = 0; step < 20; ++step) {
      rank.gradient[7] = std::numeric_limits<float>::infinity();
      // In place: the probe finds the result, which is NaN on both ranks.
      const Call call{.tensor = 0, .send = rank.gradient.data(), .recv = rank.gradient.data()};
      ASSERT_TRUE(rank.engine.Allreduce({call}).ok());
      rank.Step(0.0);
    }
    EXPECT_FALSE(rank.dense());
    EXPECT_EQ(rank.Report()["dense_when_faster"]["decisions"], 0u);
    EXPECT_EQ(rank.UntilSwitched(20), 3);
  });
}

// A warm-up at density 1 is dense anyway; each density after it is a new question.
TEST(DenseWhenFaster, DensityWarmUp) {
  const wire::Config config = Faster({{"compressor", "topk"},
                                      {"topk.exchange", "all_gather"},
                                      {"topk.index", "u32"},
                                      {"topk.density", "0.01"},
                                      {"topk.warmup_steps", "40"},
                                      {"topk.warmup_density", "[1.0, 0.9]"}});
  RunPriced(4, config, [](Rank& rank) {
    rank.link.ms_per_byte = 0.01;
    rank.Register();
    rank.Steps(20);
    EXPECT_EQ(rank.Report()["dense_when_faster"]["decisions"], 0u);
    EXPECT_FALSE(rank.dense());
    rank.Steps(20);
    EXPECT_TRUE(rank.dense()) << "nine tenths of the entries are more bytes than all without positions";
    rank.Steps(20);
    EXPECT_FALSE(rank.dense());
    const nlohmann::json events = rank.Report()["dense_when_faster"]["events"];
    ASSERT_EQ(events.size(), 2u);
    EXPECT_EQ(events[1]["cause"], "the plan changed");
  });
}

TEST(DenseWhenFaster, WhatIsDenseByPlanRunsDenseFromTheFirst) {
  RunPriced(2, Faster({{"compressor", "none"}}), [](Rank& rank) {
    rank.Register();
    for (uint64_t n = 0; n < 5; ++n) {
      EXPECT_EQ(*rank.engine.DenseRun(0), n);
      rank.Steps(1);
    }
    ASSERT_TRUE(rank.engine.Adopt(PlanOf(1, rank.engine.step(), {Compressed(wire::Codec::kFp16)})).ok());
    rank.Steps(1);
    EXPECT_EQ(*rank.engine.DenseRun(0), 0u);
    ASSERT_TRUE(rank.engine.Adopt(PlanOf(2, rank.engine.step(), {Dense()})).ok());
    rank.Steps(3);
    EXPECT_EQ(*rank.engine.DenseRun(0), 0u) << "a residual may wait";
  });
}

TEST(DenseWhenFaster, SumsInRankOrderAreNobodyElses) {
  RunPriced(2, Faster({{"compressor", "none"}, {"dense", "deterministic"}}), [](Rank& rank) {
    rank.Register();
    rank.Steps(20);
    EXPECT_EQ(*rank.engine.DenseRun(0), 0u);
  });
}

// What was worth its while is so all the more at a lower density.
TEST(DenseWhenFaster, DensityThatFallsFurtherIsNotTriedAgain) {
  const wire::Config config = Faster({{"compressor", "topk"},
                                      {"topk.exchange", "all_gather"},
                                      {"topk.density", "0.01"},
                                      {"topk.warmup_steps", "40"},
                                      {"topk.warmup_density", "[0.05, 0.02]"}});
  RunPriced(3, config, [](Rank& rank) {
    rank.link.ms_per_byte = 0.01;
    rank.Register();
    rank.Steps(60);
    EXPECT_FALSE(rank.dense());
    EXPECT_EQ(rank.Report()["dense_when_faster"]["decisions"], 1u);
  });
}

TEST(DenseWhenFaster, PlansGoBeforeIt) {
  RunPriced(2, Faster(), [](Rank& rank) {
    rank.link.latency_ms = 1;
    rank.Register();
    wire::PlanRow row = rank.engine.row(0);
    rank.Steps(10);
    ASSERT_TRUE(rank.dense());
    EXPECT_FALSE(rank.engine.Adopt(PlanOf(1, rank.engine.step(), {row})).ok()) << "1 was the change to dense";
    ASSERT_TRUE(rank.engine.Adopt(PlanOf(2, rank.engine.step(), {row})).ok());
    EXPECT_TRUE(rank.dense()) << "the same row, and dense is still faster than that";
    row = Compressed(wire::Codec::kFp16);
    ASSERT_TRUE(rank.engine.Adopt(PlanOf(3, rank.engine.step(), {row})).ok());
    EXPECT_EQ(rank.engine.row(0).codec, wire::Codec::kFp16);
    EXPECT_EQ(rank.UntilSwitched(20), 3);
    EXPECT_EQ(rank.engine.plan_version(), 4u);
    ASSERT_TRUE(rank.engine.Adopt(PlanOf(5, rank.engine.step(), {Dense()})).ok());
    EXPECT_FALSE(rank.Report()["tensors"][0].contains("timing"));
  });
}

TEST(DenseWhenFaster, OneRankHasNothingToTime) {
  RunPriced(1, Faster(), [](Rank& rank) {
    rank.Register();
    rank.Steps(10);
    const nlohmann::json report = rank.Report();
    EXPECT_EQ(report["tensors"][0]["reason"], "one rank: nothing to exchange");
    EXPECT_FALSE(report["tensors"][0].contains("timing"));
  });
}

TEST(DenseWhenFaster, RanksMustAgreeOnTheKey) {
  std::vector<std::string> words(2);
  RunRanks(
      2,
      [&](int rank, std::unique_ptr<transport::Group> group) {
        const wire::Config config = rank == 0 ? Faster() : TestConfig({});
        const auto refused = Engine::Open(config, std::move(group));
        words[static_cast<size_t>(rank)] = std::string(refused.status().message());
        transport::OpenOptions alone;
        alone.rank = 0;
        alone.world_size = 1;
        alone.hub = absl::StrCat("dense_when_faster_alone_", rank);
        return Engine::Open(TestConfig({}), *transport::OpenGroup("inproc", alone));
      },
      [](Engine&) {});
  for (const std::string& said : words) EXPECT_THAT(said, HasSubstr("dense_when_faster = "));
}

}  // namespace
}  // namespace terse::engine
