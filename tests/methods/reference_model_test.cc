// SPDX-License-Identifier: Apache-2.0
//
// 200 steps of training on four simulated ranks against plain double-precision models of the published
// equations, written for this test alone. Each rank pulls the parameters towards a target of its own, so
// that gradients depend on all that happened before.
//
// A model computes every number by itself. Only three kinds of decision, which rounding may tip, it takes
// from the run: which elements were selected, the half-precision number next to a value, and the sign of an
// element that is almost zero.
// DGC's constants are exact in fp32, so that only rounding tells run and model apart.
#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/half_precision.h"
#include "tests/methods/simulation.h"

namespace terse {
namespace {

constexpr size_t kWorld = 4;
constexpr size_t kElements = 48;
constexpr int kSteps = 200;

using Doubles = std::vector<double>;

// The gradient of rank r at w: curvature_i (w_i - target_ri) + noise.
class Problem {
 public:
  Problem() : random_(kWorld, kElements, 43), targets_(random_.Next()), curvature_(kElements) {
    for (size_t i = 0; i < kElements; ++i) curvature_[i] = 0.1f + 0.9f * static_cast<float>(i) / kElements;
  }
  void NextStep() { noise_ = random_.Next(); }
  template <typename Number>
  std::vector<std::vector<Number>> Gradients(const std::vector<Number>& w) const {
    std::vector<std::vector<Number>> gradients(kWorld, std::vector<Number>(kElements));
    for (size_t rank = 0; rank < kWorld; ++rank) {
      for (size_t i = 0; i < kElements; ++i) {
        gradients[rank][i] = curvature_[i] * (w[i] - targets_[rank][i]) + Number(0.25) * noise_[rank][i];
      }
    }
    return gradients;
  }

 private:
  RandomGradients random_;
  const std::vector<Vector> targets_;
  Vector curvature_;
  std::vector<Vector> noise_;
};

// What 200 steps of fp32 add up to; a wrong term shows at once as 1e-2 and more.
constexpr double kTolerance = 1e-4;

void ExpectNear(const Vector& actual, const Doubles& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], kTolerance * (1 + std::fabs(expected[i]))) << what << " " << i;
  }
}

// Applied, skipped and clipped steps in turn, the same for run and model.
double Applied(int step) { return step % 13 == 5 ? 0.0 : (step % 17 == 3 ? 0.5 : 1.0); }

// Lin et al. and the authors' code: accumulate, send the selected, mask.
class DgcModel {
 public:
  // `half`: values travel in half precision.
  DgcModel(const wire::Config::Dgc& config, bool half) : config_(config), half_(half) {}

  // One step of every rank; `selected` of the compressed ones. Updates w.
  void Step(const std::vector<Doubles>& gradients, const std::vector<Payload>& selected, double rate,
            double applied) {
    const double m = config_.momentum;
    const bool dense = selected.empty();
    const bool local_decay = config_.decay == wire::DecayForm::kLocal;
    Doubles update(kElements);
    for (size_t rank = 0; rank < kWorld; ++rank) {
      double norm = 0;
      for (const double g : gradients[rank]) norm += g * g;
      norm = std::sqrt(norm);
      // The mean's threshold times sqrt(N), as the gradients are not divided by N.
      const double most = config_.clip * std::sqrt(double{kWorld});
      const double factor = config_.clip > 0 && norm > most ? most / norm : 1;
      clipped += factor < 1;
      Doubles& u = u_[rank];
      Doubles& v = v_[rank];
      for (size_t i = 0; i < kElements; ++i) {
        const double g = factor * gradients[rank][i] + (local_decay ? config_.weight_decay * w[i] : 0);
        // A dense step that is skipped leaves no trace.
        if (dense && applied == 0) continue;
        u[i] = config_.nesterov ? m * (u[i] + g) : m * u[i] + g;
        const double step = config_.nesterov ? u[i] + g : u[i];
        if (dense) {
          update[i] += step / kWorld;
        } else {
          v[i] += step;
        }
      }
      if (dense) continue;
      for (const uint32_t i : selected[rank].sent) {
        double sent = v[i];
        if (half_) {
          sent = selected[rank].decoded[i];
          EXPECT_NEAR(sent, v[i], 0x1p-11 * std::fabs(v[i]) + kTolerance);
        }
        update[i] += sent / kWorld;
        v[i] -= applied * sent;
        if (config_.masking) u[i] -= applied * u[i];
      }
    }
    if (applied == 0) return;
    for (size_t i = 0; i < kElements; ++i) {
      // A job that clips scales what it applies.
      double decay = 0;
      if (config_.weight_decay > 0 && !local_decay) {
        b[i] = m * b[i] + config_.weight_decay * w[i];
        decay = config_.nesterov ? config_.weight_decay * w[i] + m * b[i] : b[i];
      }
      w[i] -= rate * (applied * update[i] + decay);
    }
  }

  const Doubles& u(size_t rank) const { return u_[rank]; }
  const Doubles& v(size_t rank) const { return v_[rank]; }
  Doubles w = Doubles(kElements);
  Doubles b = Doubles(kElements);
  int clipped = 0;

 private:
  const wire::Config::Dgc config_;
  const bool half_;
  std::vector<Doubles> u_{kWorld, Doubles(kElements)};
  std::vector<Doubles> v_{kWorld, Doubles(kElements)};
};

struct DgcCase {
  std::string name;
  bool nesterov;
  bool masking;
  bool dense;  // all steps; otherwise the first 20 only
  double weight_decay;
  double clip = 0;
  wire::DecayForm decay = wire::DecayForm::kBuffer;
  bool half = false;  // values in half precision
};

class DgcAgainstModel : public ::testing::TestWithParam<DgcCase> {};

TEST_P(DgcAgainstModel, TrainsAlike) {
  const DgcCase& test = GetParam();
  wire::Config config;
  config.method = wire::Method::kDgc;
  config.dgc.momentum = 0.875;
  config.dgc.nesterov = test.nesterov;
  config.dgc.masking = test.masking;
  config.dgc.weight_decay = test.weight_decay;
  config.dgc.clip = test.clip;
  config.dgc.decay = test.decay;
  SimulatedRanks ranks(config, {.elements = kElements, .dense = test.dense}, kWorld);
  auto update = MakeParameterUpdate(config, kElements);
  DgcModel model(config.dgc, test.half);
  Problem problem;
  Vector w(kElements);
  constexpr double kRate = 1.0 / 64;
  for (int step = 0; step < kSteps; ++step) {
    const double applied = Applied(step);
    problem.NextStep();
    const std::vector<Vector> gradients = problem.Gradients(w);
    ranks.parameter = w;
    if (test.dense || step < 20) {
      ranks.ExchangeDense(gradients);
    } else {
      ranks.ExchangeCompressed(gradients, test.half ? TopK(4, testing::HalfPrecision) : TopK(4));
    }
    if (applied > 0) {
      Vector out = ranks.outs[0];
      for (float& value : out) value *= static_cast<float>(applied);
      update->Apply(out, kRate, absl::MakeSpan(w));
    }
    model.Step(problem.Gradients(model.w), ranks.payloads, kRate, applied);
    ranks.Step(applied);
    for (size_t rank = 0; rank < kWorld; ++rank) {
      ExpectNear(ranks.State(rank, "u"), model.u(rank), "u");
      if (!test.dense) ExpectNear(ranks.State(rank, "v"), model.v(rank), "v");
    }
    ExpectNear(w, model.w, "w");
  }
  // The problem was one: the parameters went somewhere.
  EXPECT_THAT(w, ::testing::Contains(::testing::Gt(0.3f)));
  EXPECT_EQ(model.clipped > 0, test.clip > 0);
  EXPECT_LT(model.clipped, kSteps * static_cast<int>(kWorld)) << "some gradients must be short enough";
}

constexpr double kClip = 1;  // 2 for each of four ranks: some of the local gradients are longer
constexpr auto kLocal = wire::DecayForm::kLocal;
constexpr auto kBuffer = wire::DecayForm::kBuffer;

INSTANTIATE_TEST_SUITE_P(
    Variants, DgcAgainstModel,
    ::testing::Values(
        DgcCase{"Plain", false, true, false, 0}, DgcCase{"PlainUnmasked", false, false, false, 0},
        DgcCase{"PlainDense", false, true, true, 0}, DgcCase{"PlainDecay", false, true, false, 0.0078125},
        DgcCase{"Nesterov", true, true, false, 0}, DgcCase{"NesterovUnmasked", true, false, false, 0},
        DgcCase{"NesterovDense", true, true, true, 0}, DgcCase{"NesterovDecay", true, true, false, 0.0078125},
        DgcCase{"PlainClip", false, true, false, 0, kClip},
        DgcCase{"NesterovClip", true, true, false, 0, kClip},
        DgcCase{"NesterovClipDense", true, true, true, 0, kClip},
        DgcCase{"PlainLocalDecay", false, true, false, 0.0078125, 0, kLocal},
        DgcCase{"NesterovLocalDecay", true, true, false, 0.0078125, 0, kLocal},
        DgcCase{"LocalDecayDense", false, true, true, 0.0078125, 0, kLocal},
        DgcCase{"PlainHalf", false, true, false, 0, 0, kBuffer, true},
        DgcCase{"NesterovHalf", true, true, false, 0, 0, kBuffer, true},
        DgcCase{"HalfUnmasked", false, false, false, 0, 0, kBuffer, true},
        DgcCase{"All", true, true, false, 0.0078125, kClip, kLocal, true}),
    [](const auto& variant) { return variant.param.name; });

// Section 1 of the 1-bit Adam algorithm: warm-up, then two compressions with errors, one scale a worker and
// one a chunk; and the variance floor.
class OneBitAdamModel {
 public:
  explicit OneBitAdamModel(const wire::Config::Adam& config) : config_(config) {}

  void WarmUp(const std::vector<Doubles>& gradients, double rate, double applied) {
    if (applied == 0) return;
    for (size_t i = 0; i < kElements; ++i) {
      double g = 0;
      for (const Doubles& gradient : gradients) g += gradient[i] / kWorld;
      m[i] = config_.beta1 * m[i] + (1 - config_.beta1) * g;
      variance[i] = config_.beta2 * variance[i] + (1 - config_.beta2) * g * g;
    }
    Update(variance, rate, applied);
  }

  // `workers` and `servers` are what the run sent, for the signs of what is almost zero.
  void Compressed(const std::vector<Doubles>& gradients, const std::vector<Payload>& workers,
                  const Vector& servers, double rate, double applied) {
    Doubles y(kElements);
    const Doubles m_before = m;
    for (size_t rank = 0; rank < kWorld; ++rank) {
      Doubles c(kElements);
      for (size_t i = 0; i < kElements; ++i) {
        c[i] = config_.beta1 * m[i] + (1 - config_.beta1) * gradients[rank][i] + w_error[rank][i];
      }
      const Doubles q = OneBit(c, workers[rank].decoded);
      for (size_t i = 0; i < kElements; ++i) {
        y[i] += q[i] / kWorld;
        // A skip: as published, the step never took place; its gradient waits in the error.
        w_error[rank][i] = applied > 0 ? c[i] - q[i] : c[i] - config_.beta1 * m_before[i];
      }
    }
    if (applied == 0) return;
    for (size_t i = 0; i < kElements; ++i) y[i] += s_error[i];
    constexpr size_t kChunk = kElements / kWorld;
    for (size_t begin = 0; begin < kElements; begin += kChunk) {
      const Doubles chunk(y.begin() + begin, y.begin() + begin + kChunk);
      const Vector signs(servers.begin() + begin, servers.begin() + begin + kChunk);
      const Doubles q = OneBit(chunk, signs);
      for (size_t i = 0; i < kChunk; ++i) {
        s_error[begin + i] = chunk[i] - q[i];
        m[begin + i] = q[i];
      }
    }
    double mean = 0;
    for (const double v : variance) mean += v / kElements;
    Doubles floored = variance;
    for (double& v : floored) v = std::fmax(v, config_.variance_floor * mean);
    Update(floored, rate, applied);
  }

  Doubles w = Doubles(kElements);
  Doubles m = Doubles(kElements);
  Doubles variance = Doubles(kElements);
  std::vector<Doubles> w_error{kWorld, Doubles(kElements)};
  Doubles s_error = Doubles(kElements);
  int signs_taken = 0;

 private:
  Doubles OneBit(const Doubles& values, const Vector& run) {
    double sum = 0;
    for (const double value : values) sum += value * value;
    const double scale = std::sqrt(sum / static_cast<double>(values.size()));
    Doubles out;
    for (size_t i = 0; i < values.size(); ++i) {
      bool positive = values[i] >= 0;
      if (positive != (run[i] >= 0)) {
        EXPECT_LT(std::fabs(values[i]), 1e-5 * scale);
        positive = !positive;
        ++signs_taken;
      }
      out.push_back(positive ? scale : -scale);
    }
    return out;
  }
  void Update(const Doubles& v, double rate, double applied) {
    for (size_t i = 0; i < kElements; ++i) {
      w[i] -= rate * (applied * m[i] / (std::sqrt(v[i]) + config_.eps) + config_.weight_decay * w[i]);
    }
  }

  const wire::Config::Adam config_;
};

class OneBitAdamAgainstModel : public ::testing::TestWithParam<double> {};

TEST_P(OneBitAdamAgainstModel, TrainsAlike) {
  constexpr int kFreeze = 60;
  wire::Config config;
  config.method = wire::Method::kOneBitAdam;
  config.adam.freeze = kFreeze;
  config.adam.weight_decay = 0.01;
  config.adam.variance_floor = GetParam();
  SimulatedRanks ranks(config, {.elements = kElements}, kWorld);
  ranks.UseServer();
  auto update = MakeParameterUpdate(config, kElements);
  OneBitAdamModel model(config.adam);
  Problem problem;
  Vector w(kElements);
  constexpr double kRate = 0.002;
  uint64_t applied_steps = 0;  // skipped ones do not bring the freeze nearer
  for (int step = 0; step < kSteps; ++step) {
    const double applied = Applied(step);
    problem.NextStep();
    const std::vector<Vector> gradients = problem.Gradients(w);
    if (ranks.method(0).WantsDense(applied_steps)) {
      ranks.ExchangeDense(gradients);
      model.WarmUp(problem.Gradients(model.w), kRate, applied);
    } else {
      ranks.ExchangeCompressed(gradients, OneBit());
      model.Compressed(problem.Gradients(model.w), ranks.payloads, ranks.reduced, kRate, applied);
    }
    if (applied > 0) {
      Vector out = ranks.outs[0];
      for (float& value : out) value *= static_cast<float>(applied);
      update->Apply(out, kRate, absl::MakeSpan(w));
      ++applied_steps;
    }
    ranks.Step(applied);
    ExpectNear(ranks.State(0, "m"), model.m, "m");
    ExpectNear(ranks.State(0, "variance"), model.variance, "variance");
    for (size_t rank = 0; rank < kWorld; ++rank) {
      ExpectNear(ranks.State(rank, "worker_error"), model.w_error[rank], "worker error");
    }
    ExpectNear(ranks.server_error(), model.s_error, "server error");
    ExpectNear(w, model.w, "w");
  }
  EXPECT_LT(model.signs_taken, 5);
  EXPECT_THAT(w, ::testing::Contains(::testing::Gt(0.1f)));
}

INSTANTIATE_TEST_SUITE_P(VarianceFloors, OneBitAdamAgainstModel, ::testing::Values(0.0, 0.01, 1.0));

}  // namespace
}  // namespace terse
