// SPDX-License-Identifier: Apache-2.0
//
// DGC against a plain double-precision model of the published equations: 200 steps of training on four
// simulated ranks (problem.h). The model computes every number by itself; only which elements were selected
// and the half-precision number next to a value, which rounding may tip, it takes from the run. DGC's
// constants are exact in fp32, so that only rounding tells run and model apart.
#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/half_precision.h"
#include "tests/methods/problem.h"

namespace terse {
namespace {

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

}  // namespace
}  // namespace terse
