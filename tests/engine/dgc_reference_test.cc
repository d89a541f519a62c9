// SPDX-License-Identifier: Apache-2.0
//
// The whole path of method dgc (engine, method, top-k codec, exchange) against a plain model of the
// published equations that shares no code with it. The model computes in fp32 in the same order, so the
// results are equal to the bit; where it were in fp64, near-ties in the selection would tell them apart.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

constexpr int kRanks = 4;
constexpr size_t kN = 5000;
constexpr int kSteps = 200;
constexpr float kMomentum = 0.9f;

std::vector<float> Gradient(int rank, int step) {
  std::mt19937 random(static_cast<uint32_t>(7919 * rank + step));
  std::normal_distribution<float> normal;
  std::vector<float> g(kN);
  for (float& x : g) x = std::exp(normal(random)) * normal(random);
  return g;
}

double DensityAt(int step) {
  const std::vector<double> stages = {0.25, 0.0625, 0.015625, 0.004};
  return step < 40 ? stages[static_cast<size_t>(step / 10)] : 0.002;
}

// reference/dgc.md section 1: u <- m u + g, v <- v + u, the k largest of |v| are sent, v and u are zeroed
// there, the update is the mean of what was sent.
std::vector<std::vector<float>> Model() {
  std::vector<std::vector<float>> u(kRanks, std::vector<float>(kN));
  std::vector<std::vector<float>> v = u;
  std::vector<std::vector<float>> results;
  for (int step = 0; step < kSteps; ++step) {
    std::vector<float> sum(kN, 0.0f);
    const auto k = static_cast<size_t>(std::ceil(DensityAt(step) * kN - 1e-9));
    for (size_t r = 0; r < kRanks; ++r) {
      const std::vector<float> g = Gradient(static_cast<int>(r), step);
      for (size_t i = 0; i < kN; ++i) {
        u[r][i] = kMomentum * u[r][i] + g[i];
        v[r][i] = v[r][i] + u[r][i];
      }
      std::vector<size_t> order(kN);
      std::iota(order.begin(), order.end(), size_t{0});
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return std::fabs(v[r][a]) > std::fabs(v[r][b]); });
      for (size_t j = 0; j < k; ++j) {
        const size_t i = order[j];
        sum[i] += v[r][i] * (1.0f / kRanks);
        v[r][i] = 0.0f;
        u[r][i] = 0.0f;
      }
    }
    results.push_back(sum);
  }
  return results;
}

TEST(DgcReferenceTest, EqualsTheModelToTheBit) {
  const std::vector<std::vector<float>> expected = Model();
  const wire::Config config =
      TestConfig({{"method", "dgc"}, {"dgc.density", "0.002"}, {"dgc.warmup_steps", "40"}});
  RunRanks(kRanks, config, [&](Engine& engine) {
    const absl::StatusOr<uint32_t> id = engine.Register("w", wire::DType::kFloat32, {int64_t{kN}});
    ASSERT_TRUE(id.ok());
    std::vector<float> out(kN);
    for (int step = 0; step < kSteps; ++step) {
      const std::vector<float> g = Gradient(engine.rank(), step);
      const Call call{.tensor = *id, .send = g.data(), .recv = out.data()};
      ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
      ASSERT_TRUE(engine.Step(1.0).ok());
      ASSERT_EQ(out, expected[static_cast<size_t>(step)]) << "step " << step;
    }
  });
}

}  // namespace
}  // namespace terse::engine
