// SPDX-License-Identifier: Apache-2.0
//
// The whole path of method dgc (engine, method, top-k codec, exchange) against a plain model of the
// published equations that shares no code with it. The model computes in fp32 in the same order, so the
// results are equal to the bit; where it were in fp64, near-ties in the selection would tell them apart.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "tests/engine/ranks.h"
#include "tests/half_precision.h"

namespace terse::engine {
namespace {

constexpr int kRanks = 4;
constexpr size_t kN = 5000;
constexpr int kSteps = 200;
constexpr float kMomentum = 0.9f;
constexpr float kRate = 0.125f;

using Vector = std::vector<float>;

struct Case {
  std::string name;
  bool nesterov = false;
  double clip = 0;
  double local_decay = 0;
  bool half = false;  // values in half precision

  friend void PrintTo(const Case& test, std::ostream* out) { *out << test.name; }
};

Vector Gradient(int rank, int step) { return UnevenGradient(rank, step, kN); }

double DensityAt(int step) {
  const std::vector<double> stages = {0.25, 0.0625, 0.015625, 0.004};
  return step < 40 ? stages[static_cast<size_t>(step / 10)] : 0.002;
}

// reference/dgc.md section 1: g is clipped at sqrt(N) of the threshold, u <- m u + g (Nesterov: m (u + g)),
// v <- v + u (+ g), the k largest of |v| are sent, v keeps what rounding cuts off and u is zeroed there, the
// update is the mean of what was sent.
class Model {
 public:
  explicit Model(const Case& test) : test_(test) {}

  Vector w = Vector(kN);

  // Returns the update, and applies it to w.
  Vector Step(int step) {
    Vector sum(kN, 0.0f);
    const auto k = static_cast<size_t>(std::ceil(DensityAt(step) * kN - 1e-9));
    for (size_t r = 0; r < kRanks; ++r) {
      const Vector g = LocalGradient(Gradient(static_cast<int>(r), step));
      Vector& u = u_[r];
      Vector& v = v_[r];
      for (size_t i = 0; i < kN; ++i) {
        u[i] = test_.nesterov ? kMomentum * (u[i] + g[i]) : kMomentum * u[i] + g[i];
        v[i] = v[i] + (test_.nesterov ? u[i] + g[i] : u[i]);
      }
      std::vector<size_t> order(kN);
      std::iota(order.begin(), order.end(), size_t{0});
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return std::fabs(v[a]) > std::fabs(v[b]); });
      for (size_t j = 0; j < k; ++j) {
        const size_t i = order[j];
        const float sent = test_.half ? testing::HalfPrecision(v[i]) : v[i];
        sum[i] += sent * (1.0f / kRanks);
        v[i] = v[i] - sent;
        u[i] = 0.0f;
      }
    }
    for (size_t i = 0; i < kN; ++i) w[i] -= kRate * sum[i];
    return sum;
  }

 private:
  Vector LocalGradient(Vector g) const {
    double squares = 0;
    for (const float x : g) squares += double{x} * x;
    const double most = test_.clip * std::sqrt(double{kRanks});
    const double norm = std::sqrt(squares);
    const float factor = test_.clip > 0 && norm > most ? static_cast<float>(most / norm) : 1.0f;
    for (size_t i = 0; i < kN; ++i) {
      g[i] *= factor;
      if (test_.local_decay > 0) g[i] += static_cast<float>(test_.local_decay) * w[i];
    }
    return g;
  }

  const Case test_;
  std::vector<Vector> u_{kRanks, Vector(kN)};
  std::vector<Vector> v_{kRanks, Vector(kN)};
};

class DgcReferenceTest : public ::testing::TestWithParam<Case> {};

// On every rank, so that they are alike, too.
TEST_P(DgcReferenceTest, Oracle11EveryRankEqualsTheModelToTheBit) {
  const Case& test = GetParam();
  Model model(test);
  std::vector<Vector> expected;
  std::vector<Vector> parameters;
  for (int step = 0; step < kSteps; ++step) {
    expected.push_back(model.Step(step));
    parameters.push_back(model.w);
  }
  const wire::Config config = TestConfig({{"method", "dgc"},
                                          {"dgc.density", "0.002"},
                                          {"dgc.warmup_steps", "40"},
                                          {"dgc.nesterov", test.nesterov ? "true" : "false"},
                                          {"dgc.clip", std::to_string(test.clip)},
                                          {"dgc.weight_decay", std::to_string(test.local_decay)},
                                          {"dgc.decay", "local"},
                                          {"topk.values", test.half ? "fp16" : "fp32"}});
  RunRanks(kRanks, config, [&](Engine& engine) {
    const absl::StatusOr<uint32_t> id = engine.Register("w", wire::DType::kFloat32, {int64_t{kN}});
    ASSERT_TRUE(id.ok());
    Vector out(kN);
    Vector w(kN);
    float* const parameter = w.data();
    for (int step = 0; step < kSteps; ++step) {
      const Vector g = Gradient(engine.rank(), step);
      const Call call{.tensor = *id, .send = g.data(), .recv = out.data()};
      if (test.local_decay > 0) {
        const absl::StatusOr<bool> applied = engine.OptimizerStep({&call, 1}, {&parameter, 1}, kRate);
        ASSERT_TRUE(applied.ok() && *applied) << applied.status();
        ASSERT_EQ(w, parameters[static_cast<size_t>(step)]) << "step " << step;
      } else {
        ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
        ASSERT_TRUE(engine.Step(1.0).ok());
        ASSERT_EQ(out, expected[static_cast<size_t>(step)]) << "step " << step;
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Variants, DgcReferenceTest,
                         ::testing::Values(Case{"Plain"}, Case{"Nesterov", true}, Case{"Clip", false, 96},
                                           Case{"NesterovClip", true, 96},
                                           Case{"LocalDecay", false, 0, 0.0625},
                                           Case{"Half", false, 0, 0, true},
                                           Case{"All", true, 96, 0.0625, true}),
                         [](const auto& variant) { return variant.param.name; });

}  // namespace
}  // namespace terse::engine
