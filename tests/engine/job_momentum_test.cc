// SPDX-License-Identifier: Apache-2.0
//
// Method dgc under jobs whose optimizer has momentum (`dgc.job_momentum`): through the whole engine, against
// jobs without any that apply DGC's update, and against momentum SGD, both in double precision.
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

constexpr int kRanks = 4;
constexpr size_t kN = 400;
constexpr double kMomentum = 0.9;

using Vector = std::vector<float>;
using Doubles = std::vector<double>;
using Options = std::vector<std::pair<std::string, std::string>>;

Vector Gradient(int rank, int step) { return UnevenGradient(rank, step, kN); }

// The optimizer of a job, as PyTorch's SGD has it, in double precision.
struct Optimizer {
  double momentum = 0;
  bool nesterov = false;
  Doubles w = Doubles(kN);
  Doubles buffer = Doubles(kN);

  template <typename Values>
  void Step(const Values& gradient, double scale, double rate) {
    for (size_t i = 0; i < kN; ++i) {
      const double g = scale * gradient[i];
      buffer[i] = momentum * buffer[i] + g;
      w[i] -= rate * (nesterov ? g + momentum * buffer[i] : buffer[i]);
    }
  }
};

double Distance(const Doubles& a, const Doubles& b) {
  double squares = 0;
  for (size_t i = 0; i < kN; ++i) squares += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(squares);
}
double Norm(const Doubles& a) { return Distance(a, Doubles(kN)); }

struct Case {
  std::string name;
  bool nesterov = false;
  bool sum = false;
  Options options;

  friend void PrintTo(const Case& test, std::ostream* out) { *out << test.name; }
};

wire::Config ConfigOf(const Case& test, bool job) {
  Options options = {{"method", "dgc"}, {"dense", "deterministic"}};
  options.insert(options.end(), test.options.begin(), test.options.end());
  if (job) {
    options.emplace_back("dgc.job_momentum", absl::StrCat(kMomentum));
    options.emplace_back("dgc.job_nesterov", test.nesterov ? "true" : "false");
    if (test.sum) options.emplace_back("reduce", "sum");
  } else {
    options.emplace_back("dgc.momentum", absl::StrCat(kMomentum));
    options.emplace_back("dgc.nesterov", test.nesterov ? "true" : "false");
  }
  return TestConfig(options);
}

uint32_t RegisterOne(Engine& engine) {
  const absl::StatusOr<uint32_t> id = engine.Register("w", wire::DType::kFloat32, {int64_t{kN}});
  EXPECT_TRUE(id.ok()) << id.status();
  return *id;
}

// Some steps end skipped, and in one of these there is a NaN on a rank.
bool Skipped(int step) { return step % 7 == 4; }
void Exchange(Engine& engine, uint32_t id, int step, Vector* out) {
  Vector g = Gradient(engine.rank(), step);
  if (step % 14 == 11 && engine.rank() == 1) g[3] = std::numeric_limits<float>::quiet_NaN();
  const Call call{.tensor = id, .send = g.data(), .recv = out->data()};
  const absl::Status status = engine.Allreduce({&call, 1});
  ASSERT_TRUE(status.ok()) << status;
}

class JobMomentumTest : public ::testing::TestWithParam<Case> {};

// After every step the job is where it would be had it applied DGC's update itself.
TEST_P(JobMomentumTest, MovesTheJobByDgcsUpdate) {
  const Case& test = GetParam();
  constexpr int kSteps = 120;
  const auto rate = [](int step) { return 0.1 * std::pow(0.98, step); };
  std::vector<Doubles> expected;
  RunRanks(kRanks, ConfigOf(test, false), [&](Engine& engine) {
    const uint32_t id = RegisterOne(engine);
    Optimizer plain;
    Vector out(kN);
    for (int step = 0; step < kSteps; ++step) {
      Exchange(engine, id, step, &out);
      ASSERT_TRUE(engine.Step(Skipped(step) ? 0.0 : 1.0).ok());
      if (!Skipped(step)) plain.Step(out, 1.0, rate(step));
      if (engine.rank() == 0) expected.push_back(plain.w);
    }
  });
  // In two halves: the group ends between them, and the job loads what both have saved.
  const std::string path = absl::StrCat(::testing::TempDir(), "/terse_job_momentum_", getpid());
  std::vector<Optimizer> jobs(kRanks, {.momentum = kMomentum, .nesterov = test.nesterov});
  std::vector<Vector> unbroken(kSteps);
  for (const bool broken : {false, true}) {
    std::vector<Optimizer> optimizers = jobs;
    for (int begin = 0; begin < kSteps; begin += broken ? kSteps / 2 : kSteps) {
      RunRanks(kRanks, ConfigOf(test, true), [&](Engine& engine) {
        Optimizer& job = optimizers[static_cast<size_t>(engine.rank())];
        const uint32_t id = RegisterOne(engine);
        if (begin > 0) {
          const absl::Status loaded = engine.LoadState(path);
          ASSERT_TRUE(loaded.ok()) << loaded;
        }
        Vector out(kN);
        const int end = begin + (broken ? kSteps / 2 : kSteps);
        for (int step = begin; step < end; ++step) {
          Exchange(engine, id, step, &out);
          ASSERT_TRUE(engine.Step(Skipped(step) ? 0.0 : 1.0).ok());
          if (Skipped(step)) continue;
          job.Step(out, test.sum ? 1.0 / kRanks : 1.0, rate(step));
          const Doubles& pure = expected[static_cast<size_t>(step)];
          ASSERT_LT(Distance(job.w, pure), 1e-6 * Norm(pure)) << "step " << step;
          if (!broken && engine.rank() == 0) unbroken[static_cast<size_t>(step)] = out;
          if (broken) {
            ASSERT_EQ(out, unbroken[static_cast<size_t>(step)]) << "step " << step;
          }
        }
        if (end < kSteps) {
          const absl::Status saved = engine.SaveState(path);
          ASSERT_TRUE(saved.ok()) << saved;
        }
      });
    }
  }
  std::filesystem::remove_all(path);
}

// What the optimizer of the job makes of all that comes back, once nothing waits any more, is what it would
// have made of the gradients: each counts 1 / (1 - m) times. Some go by exactly, from the begin on and in
// between; some steps are skipped, or clipped.
TEST_P(JobMomentumTest, EveryGradientCountsOnce) {
  Case test = GetParam();
  // What masking forgets, and what a dense step that is skipped or clipped drops, counts nowhere.
  test.options.emplace_back("dgc.masking", "false");
  RunRanks(kRanks, ConfigOf(test, true), [&](Engine& engine) {
    const uint32_t id = RegisterOne(engine);
    Optimizer job{.momentum = kMomentum, .nesterov = test.nesterov};
    const double scale = test.sum ? 1.0 / kRanks : 1.0;
    Doubles given(kN);
    std::mt19937 random(29);  // the same on all ranks
    const bool dense = engine.row(id).codec == wire::Codec::kNone;
    Vector out(kN);
    int64_t exact = 0;
    for (int step = 0; step < 700; ++step) {
      Vector g(kN);
      Doubles mean(kN);
      for (int rank = 0; rank < kRanks && step < 300; ++rank) {
        const Vector other = Gradient(rank, step);
        if (rank == engine.rank()) g = other;
        for (size_t i = 0; i < kN; ++i) mean[i] += double{other[i]} / kRanks;
      }
      for (size_t i = 0; i < kN; ++i) given[i] += mean[i];
      if (step < 5 || (step < 300 && step % 40 < 4)) {
        job.Step(mean, 1.0, 1.0);
        ++exact;
        continue;
      }
      ASSERT_TRUE(engine.SetStepsOutside(id, exact).ok());
      exact = 0;
      const Call call{.tensor = id, .send = g.data(), .recv = out.data()};
      ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
      double applied = 1.0;
      if (!dense && step > 45 && step < 300) applied = std::vector<double>{0, 0.25, 0.75, 1, 1}[random() % 5];
      ASSERT_TRUE(engine.Step(applied).ok());
      if (applied > 0) job.Step(out, scale * applied, 1.0);
    }
    for (double& x : given) x *= -1.0 / (1.0 - kMomentum);
    EXPECT_GT(Norm(given), 1000);
    EXPECT_LT(Distance(job.w, given), 2e-5 * Norm(given));
  });
}

INSTANTIATE_TEST_SUITE_P(
    Variants, JobMomentumTest,
    ::testing::Values(
        Case{"Plain", false, false, {{"dgc.density", "0.05"}}},
        Case{"Nesterov", true, false, {{"dgc.density", "0.05"}}},
        Case{"Sum", false, true, {{"dgc.density", "0.05"}}},
        Case{"NesterovSum", true, true, {{"dgc.density", "0.05"}}},
        Case{"SparseReduce", false, true, {{"dgc.density", "0.05"}, {"topk.exchange", "sparse_reduce"}}},
        Case{"DenseFirst",
             true,
             false,
             {{"dgc.density", "0.05"}, {"dgc.warmup_steps", "45"}, {"dgc.warmup_density", "[1, 0.25]"}}},
        Case{"DenseRow", false, true, {{"exclude", "w"}}},
        Case{"DenseRowNesterov", true, false, {{"exclude", "w"}}}),
    [](const auto& variant) { return variant.param.name; });

// A tensor that is not compressed: the job gets the mean of the gradients, and is what it was without Terse
// at every step, whatever went by exactly.
TEST(JobMomentum, WithoutCompressionTheJobIsWhatItWas) {
  for (const bool nesterov : {false, true}) {
    const Case test{"", nesterov, false, {{"exclude", "w"}}};
    RunRanks(kRanks, ConfigOf(test, true), [&](Engine& engine) {
      const uint32_t id = RegisterOne(engine);
      Optimizer job{.momentum = kMomentum, .nesterov = nesterov};
      Optimizer alone = job;
      Vector out(kN);
      int64_t exact = 0;
      for (int step = 0; step < 60; ++step) {
        Doubles mean(kN);
        for (int rank = 0; rank < kRanks; ++rank) {
          const Vector g = Gradient(rank, step);
          for (size_t i = 0; i < kN; ++i) mean[i] += double{g[i]} / kRanks;
        }
        alone.Step(mean, 1.0, 0.1);
        if (step < 5 || step % 10 == 0 || step % 19 < 3) {
          job.Step(mean, 1.0, 0.1);
          ++exact;
        } else {
          ASSERT_TRUE(engine.SetStepsOutside(id, exact).ok());
          exact = 0;
          const Vector g = Gradient(engine.rank(), step);
          const Call call{.tensor = id, .send = g.data(), .recv = out.data()};
          ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
          ASSERT_TRUE(engine.Step(1.0).ok());
          for (size_t i = 0; i < kN; ++i) ASSERT_NEAR(out[i], mean[i], 1e-4) << step << " " << i;
          job.Step(out, 1.0, 0.1);
        }
        ASSERT_LT(Distance(job.w, alone.w), 1e-6 * Norm(alone.w)) << "step " << step;
      }
    });
  }
}

TEST(JobMomentum, RanksSayTheSameOfStepsOutside) {
  RunRanks(2, ConfigOf({"", false, false, {{"dgc.density", "0.05"}}}, true), [](Engine& engine) {
    const uint32_t id = RegisterOne(engine);
    const Vector g = Gradient(engine.rank(), 0);
    Vector out(kN);
    const Call call{.tensor = id, .send = g.data(), .recv = out.data()};
    ASSERT_TRUE(engine.SetStepsOutside(id, 3 + engine.rank()).ok());
    const absl::Status status = engine.Allreduce({&call, 1});
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
    EXPECT_NE(status.message().find("3 steps outside of the group"), absl::string_view::npos) << status;
    ASSERT_TRUE(engine.SetStepsOutside(id, 3).ok());
    ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
    EXPECT_EQ(engine.SetStepsOutside(id, 1).code(), absl::StatusCode::kFailedPrecondition);
    ASSERT_TRUE(engine.Step(1.0).ok());
    EXPECT_EQ(engine.SetStepsOutside(id, -1).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(engine.SetStepsOutside(id + 1, 1).code(), absl::StatusCode::kInvalidArgument);
    ASSERT_TRUE(engine.SetStepsOutside(id, 0).ok());
    ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
  });
}

// It would leave the parameters where a job without momentum has them at half the way.
TEST(JobMomentum, TheOptimizerStepIsRefused) {
  RunRanks(2, ConfigOf({"", false, false, {{"dgc.density", "0.05"}}}, true), [](Engine& engine) {
    const uint32_t id = RegisterOne(engine);
    const Vector g = Gradient(engine.rank(), 0);
    Vector w(kN);
    float* const parameter = w.data();
    const Call call{.tensor = id, .send = g.data(), .recv = nullptr};
    const absl::StatusOr<bool> applied = engine.OptimizerStep({&call, 1}, {&parameter, 1}, 0.1);
    EXPECT_EQ(applied.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(applied.status().message().find("dgc.job_momentum"), absl::string_view::npos);
    EXPECT_EQ(w, Vector(kN));
  });
}

}  // namespace
}  // namespace terse::engine
