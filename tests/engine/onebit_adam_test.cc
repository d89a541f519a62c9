// SPDX-License-Identifier: Apache-2.0
//
// 1-bit Adam through the whole engine: the group freezes at one step for all tensors and ranks, warms up
// again with a new global batch, leaves masked elements out, and pads nothing.
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

using Vector = std::vector<float>;
using Settings = std::vector<std::pair<std::string, std::string>>;

wire::Config AdamConfig(Settings more) {
  more.emplace_back("method", "onebit_adam");
  return TestConfig(more);
}

Vector Gradient(int rank, int step, size_t n) {
  std::mt19937 random(static_cast<uint32_t>(7919 * rank + step));
  std::normal_distribution<float> normal;
  Vector g(n);
  for (float& x : g) x = normal(random);
  return g;
}

uint32_t MustRegister(Engine& engine, const std::string& name, size_t n,
                      wire::DType dtype = wire::DType::kFloat32) {
  const auto extent = static_cast<int64_t>(n);
  const absl::StatusOr<uint32_t> id = engine.Register(name, dtype, {&extent, 1});
  EXPECT_TRUE(id.ok()) << id.status();
  return id.value_or(0);
}

absl::Status Exchange(Engine& engine, uint32_t tensor, const Vector& send, Vector* recv) {
  recv->resize(send.size());
  const Call call{.tensor = tensor, .send = send.data(), .recv = recv->data()};
  return engine.Allreduce({&call, 1});
}

nlohmann::json ReportOf(const Engine& engine) { return nlohmann::json::parse(engine.Report()); }
uint64_t BytesOf(const Engine& engine, uint32_t tensor) {
  return ReportOf(engine)["tensors"][tensor]["bytes_sent"];
}

// Steps that are skipped, a tensor that rests in some steps, one that is dense by plan, one that comes late:
// all that are to be frozen are, after the same step on all ranks.
TEST(EngineOneBitAdam, FreezesByItselfAfterTheSameStepOnAllRanks) {
  constexpr size_t kN = 4000;
  std::vector<nlohmann::json> reports(3);
  const wire::Config config = AdamConfig({{"adam.beta2", "0.95"}, {"exclude", "[*.bias]"}});
  RunRanks(3, config, [&](Engine& engine) {
    std::vector<uint32_t> ids = {MustRegister(engine, "a", kN), MustRegister(engine, "b", kN),
                                 MustRegister(engine, "b.bias", kN)};
    int frozen_after = 0;
    std::vector<uint64_t> sent(4);
    for (int step = 0; step < 60; ++step) {
      if (step == 10) ids.push_back(MustRegister(engine, "late", kN));
      for (const uint32_t id : ids) {
        if (id == 1 && step % 3 == 1) continue;
        const uint64_t before = BytesOf(engine, id);
        Vector out;
        ASSERT_TRUE(
            Exchange(engine, id, Gradient(engine.rank(), 10 * step + static_cast<int>(id), kN), &out).ok());
        for (const float x : out) ASSERT_LT(std::fabs(x), 10);
        sent[id] = BytesOf(engine, id) - before;
        const bool compressed = frozen_after > 0 && id != 2;
        EXPECT_EQ(sent[id] < kN, compressed) << "tensor " << id << " step " << step;
      }
      ASSERT_TRUE(engine.Step(step % 4 == 2 ? 0.0 : 1.0).ok());
      const bool frozen = ReportOf(engine)["variance"]["frozen"];
      if (frozen && frozen_after == 0) frozen_after = static_cast<int>(engine.step());
    }
    EXPECT_GT(frozen_after, 20) << "no sooner than the variance has something to be compared with";
    reports[static_cast<size_t>(engine.rank())] = ReportOf(engine)["variance"];
    EXPECT_EQ(ReportOf(engine)["variance"]["frozen_at_step"], frozen_after);
  });
  EXPECT_EQ(reports[0], reports[1]);
  EXPECT_EQ(reports[0], reports[2]);
}

TEST(EngineOneBitAdam, AnotherGlobalBatchWarmsUpAgainAndLosesNothing) {
  constexpr size_t kN = 1003;
  constexpr int kFreeze = 4;
  constexpr int kRanks = 3;
  // Without memory of its own the momentum is the gradient, and what arrives can be added up.
  const wire::Config config = AdamConfig({{"adam.freeze", "4"}, {"adam.beta1", "0"}, {"adam.beta2", "0"}});
  RunRanks(kRanks, config, [&](Engine& engine) {
    const uint32_t id = MustRegister(engine, "w", kN);
    ASSERT_TRUE(engine.SetGlobalBatch(64).ok());
    std::vector<double> missing(kN);
    int compressed_steps = 0;
    for (int step = 0; step < 30; ++step) {
      if (step == 10) {
        ASSERT_TRUE(engine.SetGlobalBatch(128).ok());
      }
      if (step == 20) {
        ASSERT_TRUE(engine.SetGlobalBatch(128).ok()) << "no change";
      }
      // The last gradients of the warm-up are all ones, so that the frozen variance is 1.
      const Vector g = step == kFreeze - 1 ? Vector(kN, 1.0f) : Gradient(engine.rank(), step, kN);
      const uint64_t before = BytesOf(engine, id);
      Vector out;
      ASSERT_TRUE(Exchange(engine, id, g, &out).ok());
      ASSERT_TRUE(engine.Step(1.0).ok());
      const bool compressed = BytesOf(engine, id) - before < kN;
      compressed_steps += compressed;
      EXPECT_EQ(compressed, (step >= kFreeze && step < 10) || step > 10 + kFreeze) << step;
      if (step < kFreeze || step > 10) continue;
      for (int r = 0; r < kRanks; ++r) {
        const Vector of = Gradient(r, step, kN);
        for (size_t i = 0; i < kN; ++i) missing[i] += of[i] / double{kRanks};
      }
      for (size_t i = 0; i < kN; ++i) missing[i] -= out[i];
      if (step == 10) {
        EXPECT_THAT(missing, Each(::testing::DoubleNear(0, 1e-5)));
      }
    }
    EXPECT_EQ(compressed_steps, 6 + 15);
    EXPECT_EQ(ReportOf(engine)["variance"]["frozen_at_step"], 15);
  });
}

TEST(EngineOneBitAdam, RanksThatSetDifferentThingsAreToldAndMaySetThemAgain) {
  constexpr size_t kN = 100;
  const std::vector<uint8_t> half = [] {
    std::vector<uint8_t> mask(kN, 1);
    std::fill(mask.begin() + 50, mask.end(), 0);
    return mask;
  }();
  const auto run = [&](bool wrong) {
    std::vector<Vector> results(3);
    RunRanks(3, AdamConfig({{"adam.freeze", "3"}}), [&](Engine& engine) {
      const uint32_t id = MustRegister(engine, "w", kN);
      ASSERT_TRUE(engine.SetGlobalBatch(10).ok());
      Vector out;
      for (int step = 0; step < 20; ++step) {
        const Vector g = Gradient(engine.rank(), step, kN);
        if (step == 6 && wrong) {
          std::vector<uint8_t> other = half;
          other[7] = 0;
          ASSERT_TRUE(engine.SetMask(id, engine.rank() == 1 ? other.data() : half.data()).ok());
          const absl::Status status = Exchange(engine, id, g, &out);
          EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
          EXPECT_THAT(std::string(status.message()), HasSubstr("(50 elements take part)"));
          EXPECT_THAT(std::string(status.message()), HasSubstr("(49 elements take part)"));
          ASSERT_TRUE(engine.SetMask(id, nullptr).ok());
        }
        if (step == 6) {
          ASSERT_TRUE(engine.SetMask(id, half.data()).ok());
        }
        if (step == 12 && wrong) {
          if (engine.rank() == 2) {
            ASSERT_TRUE(engine.SetGlobalBatch(20).ok());
          }
          const absl::Status status = engine.Step(1.0);
          EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
          EXPECT_THAT(std::string(status.message()), HasSubstr("\"global batch: 10\""));
          EXPECT_THAT(std::string(status.message()), HasSubstr("\"global batch: 20\""));
          ASSERT_TRUE(engine.SetGlobalBatch(10).ok());
        }
        if (step == 14) {
          ASSERT_TRUE(engine.SetMask(id, nullptr).ok());
        }
        ASSERT_TRUE(Exchange(engine, id, g, &out).ok());
        EXPECT_EQ(engine.SetMask(id, nullptr).code(), absl::StatusCode::kFailedPrecondition);
        EXPECT_EQ(engine.SetGlobalBatch(5).code(), absl::StatusCode::kFailedPrecondition);
        ASSERT_TRUE(engine.Step(1.0).ok());
        if (step >= 6 && step < 14) {
          EXPECT_THAT(Vector(out.begin() + 50, out.end()), Each(0.0f));
        }
      }
      results[static_cast<size_t>(engine.rank())] = out;
    });
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(results[0], results[2]);
    return results[0];
  };
  EXPECT_EQ(run(true), run(false));
}

TEST(EngineOneBitAdam, WrongSettingsAreRefused) {
  RunRanks(1, AdamConfig({{"adam.freeze", "3"}}), [](Engine& engine) {
    const uint32_t id = MustRegister(engine, "w", 3);
    const std::vector<uint8_t> none(3, 0);
    EXPECT_THAT(std::string(engine.SetMask(id, none.data()).message()), HasSubstr("every element"));
    EXPECT_EQ(engine.SetMask(id + 1, nullptr).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(engine.SetGlobalBatch(0).code(), absl::StatusCode::kInvalidArgument);
  });
  RunRanks(1, TestConfig({}), [](Engine& engine) {
    const uint32_t id = MustRegister(engine, "w", 3);
    const std::vector<uint8_t> mask = {1, 0, 1};
    EXPECT_THAT(std::string(engine.SetMask(id, mask.data()).message()), HasSubstr("onebit_adam"));
  });
}

// A tensor with a mask is, to the bit and to the byte, the tensor of the elements that take part: the others
// are neither sent nor kept, and enter no scale.
TEST(EngineOneBitAdam, AMaskedTensorIsTheTensorOfTheOthers) {
  constexpr size_t kN = 1000;
  std::vector<uint8_t> mask(kN);
  std::vector<size_t> kept;
  for (size_t i = 0; i < kN; ++i) {
    mask[i] = i % 7 != 3 && (i < 500 || i >= 620) ? 255 : 0;
    if (mask[i] != 0) kept.push_back(i);
  }
  for (const Settings& settings :
       {Settings{}, Settings{{"onebit.block", "64"}, {"onebit.scale", "l1"}},
        Settings{{"dense", "deterministic"}}, Settings{{"min_elements", "5000"}}}) {
    Settings all = settings;
    all.emplace_back("adam.freeze", "5");
    RunRanks(3, AdamConfig(all), [&](Engine& engine) {
      const uint32_t masked = MustRegister(engine, "masked", kN);
      const uint32_t packed = MustRegister(engine, "packed", kept.size());
      ASSERT_TRUE(engine.SetMask(masked, mask.data()).ok());
      Vector out;
      Vector packed_out;
      for (int step = 0; step < 20; ++step) {
        ASSERT_TRUE(engine.SetLossScale(step % 2 == 0 ? 1.0 : 1024.0).ok());
        Vector g = Gradient(engine.rank(), step, kN);
        Vector packed_g;
        for (const size_t i : kept) packed_g.push_back(g[i]);
        // What is masked is not even looked at.
        for (size_t i = 0; i < kN; ++i) g[i] = mask[i] != 0 ? g[i] : std::numeric_limits<float>::quiet_NaN();
        if (step % 5 == 3) {
          out = g;  // in place
          ASSERT_TRUE(Exchange(engine, masked, out, &out).ok());
        } else {
          ASSERT_TRUE(Exchange(engine, masked, g, &out).ok());
        }
        ASSERT_TRUE(Exchange(engine, packed, packed_g, &packed_out).ok());
        Vector expected(kN);
        for (size_t j = 0; j < kept.size(); ++j) expected[kept[j]] = packed_out[j];
        ASSERT_EQ(out, expected) << step;
        ASSERT_TRUE(engine.Step(step % 6 == 5 ? 0.0 : 1.0).ok());
      }
      EXPECT_EQ(BytesOf(engine, masked), BytesOf(engine, packed));
    });
  }
}

TEST(EngineOneBitAdam, MasksWorkForEveryDtypeAndTheOptimizerStep) {
  const std::vector<uint8_t> mask = {1, 0, 1, 1, 0};
  RunRanks(2, AdamConfig({{"adam.freeze", "2"}, {"adam.weight_decay", "0.5"}}), [&](Engine& engine) {
    const uint32_t half = MustRegister(engine, "half", 5, wire::DType::kFloat16);
    const uint32_t full = MustRegister(engine, "full", 5, wire::DType::kFloat64);
    const uint32_t w_id = MustRegister(engine, "w", 5);
    for (const uint32_t id : {half, full, w_id}) ASSERT_TRUE(engine.SetMask(id, mask.data()).ok());
    for (int step = 0; step < 5; ++step) {
      std::vector<uint16_t> h = {0x3c00, 0x7e00, 0x3c00, 0xbc00, 0x7e00};  // 1, NaN, 1, -1, NaN
      std::vector<double> d = {1, 2, 1, -1, 2};
      const Vector g = {1, 2, 1, -1, 2};
      Vector w(5, 1.0f);
      const Call calls[] = {{.tensor = half, .send = h.data(), .recv = h.data()},
                            {.tensor = full, .send = d.data(), .recv = d.data()}};
      ASSERT_TRUE(engine.Allreduce(calls).ok());
      const Call update{.tensor = w_id, .send = g.data()};
      float* const parameter = w.data();
      const absl::StatusOr<bool> applied = engine.OptimizerStep({&update, 1}, {&parameter, 1}, 0.125);
      ASSERT_TRUE(applied.ok() && *applied);
      for (const size_t i : {1, 4}) {
        EXPECT_EQ(h[i], 0);
        EXPECT_EQ(d[i], 0);
        EXPECT_EQ(w[i], 1 - 0.125f * 0.5f) << "decay only";
      }
      EXPECT_GT(d[0], 0);
      EXPECT_LT(d[3], 0);
      EXPECT_EQ(h[3] & 0x8000, 0x8000);
      EXPECT_LT(w[0], 0.9f);
      EXPECT_GT(w[3], 1.0f);
    }
  });
}

// Shards are aligned to 8 elements, and the last is as short as it is: no scale counts an element that the
// tensor does not have, and no error is kept for one. The model has no padding, whatever the size.
TEST(EngineOneBitAdam, NothingIsPadded) {
  constexpr int kRanks = 4;
  for (const size_t n : {1, 7, 8, 9, 13, 31, 32, 33, 65}) {
    RunRanks(kRanks, TestConfig({{"compressor", "onebit"}}), [&](Engine& engine) {
      const uint32_t id = MustRegister(engine, "w", n);
      std::vector<std::vector<double>> w_error(kRanks, std::vector<double>(n));
      std::vector<double> s_error(n);
      const size_t blocks = (n + 7) / 8;
      const size_t shard = (blocks + kRanks - 1) / kRanks * 8;
      const auto one_bit = [](std::vector<double>& values, size_t begin, size_t end) {
        double sum = 0;
        for (size_t i = begin; i < end; ++i) sum += values[i] * values[i];
        const double scale = std::sqrt(sum / static_cast<double>(end - begin));
        std::vector<double> sent(values.size());
        for (size_t i = begin; i < end; ++i) sent[i] = values[i] >= 0 ? scale : -scale;
        for (size_t i = begin; i < end; ++i) values[i] -= sent[i];
        return sent;
      };
      for (int step = 0; step < 20; ++step) {
        std::vector<double> expected(n);
        for (int r = 0; r < kRanks; ++r) {
          const Vector g = Gradient(r, step, n);
          std::vector<double>& error = w_error[static_cast<size_t>(r)];
          for (size_t i = 0; i < n; ++i) error[i] += g[i];
          const std::vector<double> sent = one_bit(error, 0, n);
          for (size_t i = 0; i < n; ++i) s_error[i] += sent[i] / kRanks;
        }
        for (size_t begin = 0; begin < n; begin += shard) {
          const size_t end = std::min(n, begin + shard);
          const std::vector<double> sent = one_bit(s_error, begin, end);
          for (size_t i = begin; i < end; ++i) expected[i] = sent[i];
        }
        Vector out;
        ASSERT_TRUE(Exchange(engine, id, Gradient(engine.rank(), step, n), &out).ok());
        for (size_t i = 0; i < n; ++i) ASSERT_NEAR(out[i], expected[i], 1e-4) << n << " elements";
        ASSERT_TRUE(engine.Step(1.0).ok());
      }
    });
  }
}

// One rank: dense, but v is frozen.
TEST(EngineOneBitAdam, OneRankIsAdamWithFrozenVariance) {
  constexpr size_t kN = 50;
  RunRanks(1, AdamConfig({{"adam.freeze", "10"}, {"exclude", "[*.bias]"}}), [](Engine& engine) {
    const uint32_t frozen = MustRegister(engine, "w", kN);
    const uint32_t exact = MustRegister(engine, "w.bias", kN);
    std::vector<double> m(kN);
    std::vector<double> v(kN);
    std::vector<double> v_exact(kN);
    Vector out;
    Vector out_exact;
    for (int step = 0; step < 40; ++step) {
      const Vector g = Gradient(0, step, kN);
      ASSERT_TRUE(Exchange(engine, frozen, g, &out).ok());
      ASSERT_TRUE(Exchange(engine, exact, g, &out_exact).ok());
      ASSERT_TRUE(engine.Step(1.0).ok());
      double mean = 0;
      for (size_t i = 0; i < kN; ++i) {
        m[i] = 0.9 * m[i] + 0.1 * g[i];
        v_exact[i] = 0.999 * v_exact[i] + 0.001 * g[i] * g[i];
        if (step < 10) v[i] = v_exact[i];
        mean += v[i] / kN;
      }
      for (size_t i = 0; i < kN; ++i) {
        const double variance = step < 10 ? v[i] : std::max(v[i], 0.01 * mean);
        ASSERT_NEAR(out[i], m[i] / (std::sqrt(variance) + 1e-8), 2e-4) << step;
        ASSERT_NEAR(out_exact[i], m[i] / (std::sqrt(v_exact[i]) + 1e-8), 2e-4) << step;
      }
    }
    EXPECT_EQ(ReportOf(engine)["variance"]["frozen_at_step"], 10);
    EXPECT_EQ(ReportOf(engine)["bytes_sent"], 0);
  });
}

}  // namespace
}  // namespace terse::engine
