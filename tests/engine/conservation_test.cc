// SPDX-License-Identifier: Apache-2.0
//
// Conservation at every step, whatever plans and fates a run meets: what was delivered plus what waits is
// what was submitted. Plans change codec, parameters and dense at random; steps are applied, skipped or
// clipped at random, and some gradients are not finite.
//
// With a the weight of a rank's gradient (1/N for a mean, 1 for a sum), after every step
//
//   D + sum of a e_i + S  =  G
//
// e_i being what waits on rank i (the residual, DGC's v, 1-bit Adam's W) and S the errors of the owners of
// shards. D is the sum of what was delivered and G that of what was submitted; in one step they grow by
//
//   allreduce    applied out           sum of a g_i
//   dgc          applied out           sum of a (m u_i + g_i), u_i as it was before the step
//   onebit_adam  m_new - b1 m_old      (1 - b1) sum of a g_i
//
// A dense exchange keeps nothing, so G grows by what was applied only. Elements that are not finite count as
// 0, and their step as skipped.
//
// The bound. All arithmetic is fp32 on the vectors that take part in a step: gradients, memories before and
// after, what is delivered. One rounding moves a vector of norm w by at most 2^-24 w, and each is rounded a
// few times: a step adds at most kRoundings 2^-24 of the sum of those norms. (Seen: 0.25 of it.) It grows
// with the steps and with the gradients, and with nothing else. To lose what bf16 rounds off is 2^-9 in one
// step.
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <ostream>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/engine/memories.h"
#include "tests/engine/plans.h"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

// No multiple of any number of ranks or block.
constexpr int64_t kRows = 29;
constexpr int64_t kColumns = 23;
constexpr size_t kN = kRows * kColumns;
constexpr int kSteps = 120;
constexpr double kRoundings = 4;

using Settings = std::vector<std::pair<std::string, std::string>>;
using Doubles = std::vector<double>;

struct Case {
  std::string name;
  int ranks = 0;
  Settings settings;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

std::vector<Case> Cases() {
  const auto adam = [](const char* freeze) {
    return Settings{{"method", "onebit_adam"}, {"adam.freeze", freeze}, {"adam.beta2", "0.9"}};
  };
  return {{"allreduce_1", 1, {}},
          {"allreduce_2", 2, {}},
          {"allreduce_3", 3, {}},
          {"allreduce_5", 5, {{"dense", "deterministic"}}},
          {"allreduce_sum_3", 3, {{"reduce", "sum"}}},
          {"dgc_3", 3, {{"method", "dgc"}}},
          {"dgc_nesterov_2", 2, {{"method", "dgc"}, {"dgc.nesterov", "true"}}},
          {"dgc_warmup_3",
           3,
           {{"method", "dgc"}, {"dgc.warmup_steps", "24"}, {"dgc.warmup_density", "[1.0, 0.25]"}}},
          {"dgc_unmasked_4", 4, {{"method", "dgc"}, {"dgc.masking", "false"}, {"dgc.momentum", "0.5"}}},
          {"onebit_adam_2", 2, adam("4")},
          {"onebit_adam_3", 3, adam("7")},
          {"onebit_adam_auto_4", 4, adam("auto")}};
}

// A gradient whose elements differ in size; on one rank, now and then, not finite.
std::vector<float> Gradient(std::mt19937* random, bool broken) {
  std::normal_distribution<float> normal;
  std::vector<float> g(kN);
  for (size_t i = 0; i < kN; ++i) g[i] = std::ldexp(normal(*random), static_cast<int>(i % 7));
  if (broken) {
    g[(*random)() % kN] = std::numeric_limits<float>::quiet_NaN();
    g[(*random)() % kN] = -std::numeric_limits<float>::infinity();
  }
  return g;
}

// The sums on both sides, and how far they may differ.
class Ledger {
 public:
  Ledger(const wire::Config& config, int ranks)
      : config_(config), weight_(config.reduce == wire::Reduce::kMean ? 1.0 / ranks : 1.0) {}

  double weight() const { return weight_; }

  struct Step {
    std::vector<std::vector<float>> gradients;
    std::vector<float> out;
    bool dense = false;
    double applied = 1;
  };

  void Add(const Step& step, const Memories& memories, double norms) {
    double applied = step.applied;
    Doubles reduced(kN);
    double sizes = norms + norms_;
    for (const std::vector<float>& gradient : step.gradients) {
      Doubles g(kN);
      for (size_t i = 0; i < kN; ++i) {
        if (!std::isfinite(gradient[i])) applied = 0;
        g[i] = std::isfinite(gradient[i]) ? weight_ * double{gradient[i]} : 0.0;
        reduced[i] += g[i];
      }
      sizes += Norm(g);
    }
    const bool momentum = config_.method == wire::Method::kOneBitAdam;
    if (momentum && applied > 0) applied = 1;  // a clip is a matter of the update, not of the momentum
    const double kept = step.dense ? applied : 1.0;
    const Doubles u = Vector(memories_, "u");
    const Doubles old_m = Vector(memories_, "m");
    const Doubles new_m = Vector(memories, "m");
    const double b1 = config_.adam.beta1;
    Doubles delivered(kN);
    for (size_t i = 0; i < kN; ++i) {
      if (applied > 0) delivered[i] = momentum ? new_m[i] - b1 * old_m[i] : applied * double{step.out[i]};
      balance_[i] += kept * Submitted(reduced[i], u[i]) - delivered[i];
    }
    sizes += Norm(delivered);
    bound_ += kRoundings * std::ldexp(sizes, -24);
    memories_ = memories;
    norms_ = norms;
  }

  // |G - D - what waits|, and what it may be.
  double error() const {
    Doubles difference = balance_;
    const Doubles pending = Vector(memories_, "pending");
    for (size_t i = 0; i < kN; ++i) difference[i] -= pending[i];
    return Norm(difference);
  }
  double bound() const { return bound_; }
  bool waits() const { return memories_.contains("pending"); }
  bool Flag(const std::string& name) const {
    return memories_.contains(name) && memories_.at(name).front() != 0;
  }

 private:
  static Doubles Vector(const Memories& memories, const std::string& name) {
    return memories.contains(name) ? memories.at(name) : Doubles(kN);
  }

  double Submitted(double g, double u) const {
    if (config_.method == wire::Method::kOneBitAdam) return (1 - config_.adam.beta1) * g;
    if (config_.method != wire::Method::kDgc) return g;
    const double m = config_.dgc.momentum;
    return config_.dgc.nesterov ? m * (u + g) + g : m * u + g;
  }

  const wire::Config config_;
  const double weight_;
  Memories memories_;  // after the last step
  double norms_ = 0;
  Doubles balance_ = Doubles(kN);  // G - D
  double bound_ = 0;
};

class Conservation : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(EveryStep, Conservation, ::testing::ValuesIn(Cases()),
                         [](const auto& instance) { return instance.param.name; });

TEST_P(Conservation, HoldsAtEveryStepUnderRandomPlans) {
  const wire::Config config = TestConfig(GetParam().settings);
  const std::string path = absl::StrCat(::testing::TempDir(), "/terse_conservation_", getpid());
  std::set<wire::Codec> met;
  RunRanks(GetParam().ranks, config, [&](Engine& engine) {
    const absl::StatusOr<uint32_t> id = engine.Register("w", wire::DType::kFloat32, {kRows, kColumns});
    ASSERT_TRUE(id.ok()) << id.status();
    Ledger ledger(config, engine.size());
    std::mt19937 random(static_cast<uint32_t>(GetParam().ranks));  // all ranks draw the same
    uint32_t version = 0;
    int waited = 0;
    for (int step = 0; step < kSteps; ++step) {
      // 1-bit Adam warms up again, and hands on what it kept back.
      ASSERT_TRUE(engine.SetGlobalBatch(step < kSteps / 2 ? 64 : 128).ok());
      if (step > 0 && random() % 3 == 0) {
        const wire::Plan plan = PlanOf(++version, engine.step(), {RandomRow(config.method, &random)});
        const absl::Status status = engine.Adopt(plan);
        ASSERT_TRUE(status.ok()) << status;
      }
      Ledger::Step taken;
      const uint32_t broken = static_cast<uint32_t>(random() % (8 * static_cast<uint32_t>(engine.size())));
      for (int r = 0; r < engine.size(); ++r) {
        taken.gradients.push_back(Gradient(&random, broken == static_cast<uint32_t>(r)));
      }
      const uint32_t fate = static_cast<uint32_t>(random() % 6);
      taken.applied = fate == 0 ? 0.0 : fate == 1 ? 0.25 : fate == 2 ? 0.7 : 1.0;
      taken.dense =
          engine.row(*id).codec == wire::Codec::kNone ||
          2 * engine.step() < static_cast<uint64_t>(config.dgc.warmup_steps) ||  // density 1
          (config.method == wire::Method::kOneBitAdam && (!ledger.Flag("frozen") || ledger.Flag("draining")));
      taken.out.resize(kN);
      const std::vector<float>& own = taken.gradients[static_cast<size_t>(engine.rank())];
      absl::Status status = engine.Allreduce({{.tensor = *id, .send = own.data(), .recv = taken.out.data()}});
      ASSERT_TRUE(status.ok()) << status;
      status = engine.Step(taken.applied);
      ASSERT_TRUE(status.ok()) << status;
      status = engine.SaveState(path);
      ASSERT_TRUE(status.ok()) << status;
      if (engine.rank() != 0) continue;

      double norms = 0;
      const Memories memories = ReadMemories(path, ledger.weight(), &norms);
      ledger.Add(taken, memories, norms);
      ASSERT_LE(ledger.error(), ledger.bound())
          << "step " << step << ", applied " << taken.applied << (taken.dense ? ", dense, " : ", ")
          << wire::RowText(engine.row(*id));
      waited += ledger.waits();
      met.insert(engine.row(*id).codec);
    }
    EXPECT_TRUE(engine.rank() != 0 || waited > kSteps / 4) << "something was there to be lost";
  });
  EXPECT_EQ(met.size(), config.method == wire::Method::kAllreduce ? 7u : 2u) << "every codec of the method";
  std::filesystem::remove_all(path);
}

}  // namespace
}  // namespace terse::engine
