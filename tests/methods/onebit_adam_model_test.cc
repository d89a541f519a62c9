// SPDX-License-Identifier: Apache-2.0
//
// 1-bit Adam against a plain double-precision model of the published equations: 200 steps of training on four
// simulated ranks (problem.h), with every option, steps skipped and clipped, and the variance unfrozen on
// the way. The model computes every number by itself, and by itself it decides when to freeze. Only the sign
// of an element that is almost zero, which rounding may tip, it takes from the run.
#include <numeric>

#include "gmock/gmock.h"
#include "tests/methods/problem.h"

namespace terse {
namespace {

struct AdamCase {
  std::string name;
  wire::Config::Adam adam;
  OneBitRule rule = {};
  size_t kept = kElements;  // the mask lets so many take part, every fifth left out first
  int unfreeze_at = -1;     // before this step
  int freezes = 1;
  double rate = 0.002;
};
void PrintTo(const AdamCase& test, std::ostream* out) { *out << test.name; }

// 0, 1, 2, 3, 5, ... : of every five the last is left out, as long as there are too many.
std::vector<size_t> Kept(size_t count) {
  std::vector<size_t> kept;
  size_t left_out = 0;
  for (size_t i = 0; i < kElements; ++i) {
    if (i % 5 == 4 && left_out < kElements - count) {
      ++left_out;
    } else {
      kept.push_back(i);
    }
  }
  return kept;
}

template <typename Number>
std::vector<Number> Pick(const std::vector<Number>& from, const std::vector<size_t>& places) {
  std::vector<Number> picked;
  for (const size_t i : places) picked.push_back(from[i]);
  return picked;
}

// All vectors but w are of the elements that take part.
class OneBitAdamModel {
 public:
  explicit OneBitAdamModel(const AdamCase& test)
      : config_(test.adam), rule_(test.rule), kept_(Kept(test.kept)), n_(kept_.size()) {}

  // `workers` and `servers` are what the run sent, if it did.
  void Step(const std::vector<Doubles>& gradients, const std::vector<Payload>& workers, const Vector& servers,
            double rate, double applied) {
    gradients_.clear();
    for (const Doubles& gradient : gradients) gradients_.push_back(Pick(gradient, kept_));
    mean_.assign(n_, 0);
    for (const Doubles& gradient : gradients_) {
      for (size_t i = 0; i < n_; ++i) mean_[i] += gradient[i] / kWorld;
    }
    if (!dense()) {
      Compressed(workers, servers, applied);
    } else if (applied > 0 && stage_ == Stage::kHandOn) {
      HandOn();
    } else if (applied > 0) {
      WarmUp();
    }
    if (applied == 0) return;
    ++m_updates_;
    Update(rate, applied);
    if (stage_ == Stage::kWarmUp && WarmUpIsOver()) stage_ = Stage::kCompressed;
    if (stage_ == Stage::kHandOn) stage_ = Stage::kWarmUp;
  }
  void Unfreeze() {
    norms_.clear();
    if (stage_ == Stage::kCompressed) stage_ = Stage::kHandOn;
  }
  bool dense() const { return stage_ != Stage::kCompressed; }

  Doubles w = Doubles(kElements);
  Doubles m = Doubles(kElements);
  Doubles variance = Doubles(kElements);
  std::vector<Doubles> w_error{kWorld, Doubles(kElements)};
  Doubles s_error = Doubles(kElements);
  int signs_taken = 0;

 private:
  enum class Stage { kWarmUp, kCompressed, kHandOn };

  void WarmUp() {
    ++v_updates_;
    double norm = 0;
    for (size_t i = 0; i < n_; ++i) {
      m[i] = config_.beta1 * m[i] + (1 - config_.beta1) * mean_[i];
      variance[i] = config_.beta2 * variance[i] + (1 - config_.beta2) * mean_[i] * mean_[i];
      norm += std::fabs(variance[i]);
    }
    norms_.push_back(norm / (1 - std::pow(config_.beta2, v_updates_)));
  }

  bool WarmUpIsOver() const {
    const auto steps = static_cast<int64_t>(norms_.size());
    if (config_.freeze != wire::Config::Adam::kAuto) return steps >= config_.freeze;
    const auto distance = static_cast<int64_t>(std::round(1 / (1 - config_.beta2)));
    if (steps <= distance || steps <= config_.lr_warmup_steps) return false;
    const double ratio = norms_[steps - 1] / norms_[steps - 1 - distance];
    return ratio >= 0.96 && ratio <= 1 / 0.96;
  }

  // What compression has kept back enters the momentum, once and whole; the variance waits.
  void HandOn() {
    for (size_t i = 0; i < n_; ++i) {
      m[i] = config_.beta1 * m[i] + (1 - config_.beta1) * mean_[i] + s_error[i];
      for (Doubles& error : w_error) m[i] += std::exchange(error[i], 0) / kWorld;
      s_error[i] = 0;
    }
  }

  void Compressed(const std::vector<Payload>& workers, const Vector& servers, double applied) {
    Doubles y(n_);
    for (size_t rank = 0; rank < kWorld; ++rank) {
      Doubles c(n_);
      for (size_t i = 0; i < n_; ++i) {
        c[i] = config_.beta1 * m[i] + (1 - config_.beta1) * gradients_[rank][i] + w_error[rank][i];
      }
      const Doubles q = OneBit(c, workers[rank].decoded);
      for (size_t i = 0; i < n_; ++i) {
        y[i] += q[i] / kWorld;
        // A skip: as published, the step never took place; its gradient waits in the error.
        w_error[rank][i] = applied > 0 ? c[i] - q[i] : c[i] - config_.beta1 * m[i];
      }
    }
    if (applied == 0) return;
    for (size_t i = 0; i < n_; ++i) y[i] += s_error[i];
    const auto chunk = static_cast<ptrdiff_t>(n_ / kWorld);
    for (ptrdiff_t begin = 0; begin < static_cast<ptrdiff_t>(n_); begin += chunk) {
      const Doubles q = OneBit({y.begin() + begin, y.begin() + begin + chunk},
                               {servers.begin() + begin, servers.begin() + begin + chunk});
      for (ptrdiff_t i = 0; i < chunk; ++i) {
        s_error[begin + i] = y[begin + i] - q[i];
        m[begin + i] = q[i];
      }
    }
  }

  // Signs times the scale of each block; a tipped sign is the run's.
  Doubles OneBit(const Doubles& values, const Vector& run) {
    Doubles out;
    const size_t block = rule_.block == 0 ? values.size() : rule_.block;
    for (size_t begin = 0; begin < values.size(); begin += block) {
      double sum = 0;
      for (size_t i = begin; i < begin + block; ++i) {
        sum += rule_.norm == wire::ScaleNorm::kL2 ? values[i] * values[i] : std::fabs(values[i]);
      }
      const double mean = sum / static_cast<double>(block);
      const double scale = rule_.norm == wire::ScaleNorm::kL2 ? std::sqrt(mean) : mean;
      for (size_t i = begin; i < begin + block; ++i) {
        bool positive = values[i] >= 0;
        if (positive != (run[i] >= 0)) {
          EXPECT_LT(std::fabs(values[i]), 1e-5 * scale);
          positive = !positive;
          ++signs_taken;
        }
        out.push_back(positive ? scale : -scale);
      }
    }
    return out;
  }

  void Update(double rate, double applied) {
    const bool floored = stage_ != Stage::kWarmUp;
    const double floor =
        floored ? config_.variance_floor * std::accumulate(variance.begin(), variance.begin() + n_, 0.0) / n_
                : 0.0;
    const bool corrected = config_.bias_correction;
    const double m_weight = corrected ? 1 - std::pow(config_.beta1, m_updates_) : 1;
    const double v_weight = corrected ? 1 - std::pow(config_.beta2, v_updates_) : 1;
    Doubles direction(kElements);
    for (size_t i = 0; i < n_; ++i) {
      const double v = std::fmax(variance[i], floor) / v_weight;
      direction[kept_[i]] = m[i] / m_weight / (std::sqrt(v) + config_.eps);
    }
    for (size_t i = 0; i < kElements; ++i) {
      w[i] -= rate * (applied * direction[i] + config_.weight_decay * w[i]);
    }
  }

  const wire::Config::Adam config_;
  const OneBitRule rule_;
  const std::vector<size_t> kept_;
  const size_t n_;
  Stage stage_ = Stage::kWarmUp;
  std::vector<Doubles> gradients_;
  Doubles mean_;
  Doubles norms_;  // of the bias-corrected variance, since the warm-up began
  int m_updates_ = 0;
  int v_updates_ = 0;
};

class OneBitAdamAgainstModel : public ::testing::TestWithParam<AdamCase> {};

TEST_P(OneBitAdamAgainstModel, TrainsAlike) {
  const AdamCase& test = GetParam();
  wire::Config config;
  config.method = wire::Method::kOneBitAdam;
  config.adam = test.adam;
  const std::vector<size_t> kept = Kept(test.kept);
  SimulatedRanks ranks(config, {.elements = test.kept}, kWorld);
  ranks.UseServer(test.rule);
  auto update = MakeParameterUpdate(config, kElements);
  OneBitAdamModel model(test);
  Problem problem;
  Vector w(kElements);
  int compressed = 0;
  int freezes = 0;
  for (int step = 0; step < kSteps; ++step) {
    const double applied = Applied(step);
    problem.NextStep();
    if (step == test.unfreeze_at) {
      ranks.Unfreeze();
      model.Unfreeze();
    }
    ASSERT_EQ(ranks.method(0).WantsDense(0), model.dense()) << "step " << step;
    compressed += model.dense() ? 0 : 1;
    const bool was_dense = model.dense();
    std::vector<Vector> gradients;
    for (const Vector& gradient : problem.Gradients(w)) gradients.push_back(Pick(gradient, kept));
    ranks.Exchange(gradients, OneBit(test.rule));
    model.Step(problem.Gradients(model.w), ranks.payloads, ranks.reduced, test.rate, applied);
    freezes += was_dense && !model.dense() ? 1 : 0;
    if (applied > 0) {
      Vector out(kElements);
      for (size_t i = 0; i < kept.size(); ++i) out[kept[i]] = ranks.outs[0][i] * static_cast<float>(applied);
      update->Apply(out, test.rate, absl::MakeSpan(w));
    }
    ranks.Step(applied);
    const auto expect_near = [&](const Vector& actual, Doubles expected, const char* what) {
      expected.resize(test.kept);
      ExpectNear(actual, expected, std::string(what) + " after step " + std::to_string(step));
    };
    expect_near(ranks.State(0, "m"), model.m, "m");
    expect_near(ranks.State(0, "variance"), model.variance, "variance");
    for (size_t rank = 0; rank < kWorld; ++rank) {
      expect_near(ranks.State(rank, "worker_error"), model.w_error[rank], "worker error");
    }
    expect_near(ranks.server_error(), model.s_error, "server error");
    ExpectNear(w, model.w, "w after step " + std::to_string(step));
  }
  EXPECT_EQ(freezes, test.freezes);
  EXPECT_GE(compressed, 20);
  EXPECT_LT(compressed, kSteps - 20);
  EXPECT_LT(model.signs_taken, 5);
  EXPECT_THAT(w, ::testing::Contains(::testing::Gt(0.1f)));
}

wire::Config::Adam Adam(int64_t freeze, double floor = 0.01) {
  wire::Config::Adam adam;
  adam.freeze = freeze;
  adam.weight_decay = 0.01;
  adam.variance_floor = floor;
  return adam;
}
wire::Config::Adam Corrected(wire::Config::Adam adam) {
  adam.bias_correction = true;
  return adam;
}
wire::Config::Adam Auto() {
  wire::Config::Adam adam = Adam(wire::Config::Adam::kAuto);
  adam.beta2 = 0.96875;  // remembers 32 steps
  adam.lr_warmup_steps = 40;
  return adam;
}

constexpr OneBitRule kL1InBlocks = {.norm = wire::ScaleNorm::kL1, .block = 6};
constexpr OneBitRule kL2InBlocks = {.norm = wire::ScaleNorm::kL2, .block = 5};

INSTANTIATE_TEST_SUITE_P(
    Variants, OneBitAdamAgainstModel,
    ::testing::Values(AdamCase{"NoFloor", Adam(60, 0.0)}, AdamCase{"Floor", Adam(60, 0.01)},
                      AdamCase{"HighFloor", Adam(60, 1.0)}, AdamCase{"L1InBlocks", Adam(60), kL1InBlocks},
                      AdamCase{"BiasCorrection", Corrected(Adam(60))}, AdamCase{"Masked", Adam(60), {}, 40},
                      AdamCase{"MaskedInBlocks", Adam(60), kL2InBlocks, 40},
                      AdamCase{"Unfrozen", Adam(50), {}, kElements, 120, 2},
                      AdamCase{"UnfrozenInTheWarmUp", Adam(50), {}, kElements, 30},
                      AdamCase{"Automatic", Auto(), {}, kElements, -1, 1, 0.02},
                      AdamCase{"AutomaticUnfrozen", Auto(), {}, kElements, 130, 2, 0.02},
                      AdamCase{"Everything", Corrected(Auto()), kL2InBlocks, 40, 130, 2, 0.02}),
    [](const auto& variant) { return variant.param.name; });

}  // namespace
}  // namespace terse
