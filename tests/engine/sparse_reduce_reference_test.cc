// SPDX-License-Identifier: Apache-2.0
//
// The whole path of sparse reduce (engine, method, top-k codec, exchange) against a plain model that shares
// no code with it: everything by sorting, with the arithmetic of docs/wire_format_payloads.md. The model
// computes in fp32 in the same order, so the results are equal to the bit; where it were in fp64, near-ties
// in the selection would tell them apart. Beside it, sums in fp64 say that over all steps nothing was lost.
#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/engine/ranks.h"
#include "tests/half_precision.h"

namespace terse::engine {
namespace {

constexpr size_t kRanks = 4;
constexpr size_t kN = 5000;
constexpr size_t kK = 60;  // of 1.2 %
constexpr int kSteps = 200;
constexpr float kMomentum = 0.9f;

using Vector = std::vector<float>;

struct Case {
  std::string name;
  bool dgc = false;
  bool nesterov = false;
  bool masking = true;
  bool half = false;    // values in half precision
  bool skewed = false;  // each rank's gradient is large in a part of the tensor

  friend void PrintTo(const Case& test, std::ostream* out) { *out << test.name; }
};

Vector Gradient(const Case& test, size_t rank, int step) {
  std::mt19937 random(static_cast<uint32_t>(7919 * rank + static_cast<size_t>(step)));
  std::normal_distribution<float> normal;
  Vector g(kN);
  for (size_t i = 0; i < kN; ++i) {
    g[i] = std::exp(normal(random)) * normal(random);
    if (test.skewed && i * kRanks / kN == (rank + 1) % kRanks && i % 3 == 0) g[i] *= 20;
  }
  return g;
}

std::vector<size_t> ByMagnitude(const Vector& x) {
  std::vector<size_t> order(x.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return std::fabs(x[a]) > std::fabs(x[b]); });
  return order;
}

class Model {
 public:
  explicit Model(const Case& test) : test_(test) {}

  struct Step {
    Vector out = Vector(kN);
    size_t accepted = 0;
    size_t rejected = 0;  // entries that went home
  };

  Step Run(const std::vector<Vector>& gradients, double applied) {
    // What each rank selects, in full vectors; not selected is 0.
    std::vector<Vector> sent(kRanks, Vector(kN));
    for (size_t r = 0; r < kRanks; ++r) {
      Accumulate(gradients[r], &u[r], &v[r]);
      const std::vector<size_t> order = ByMagnitude(v[r]);
      for (size_t j = 0; j < kK; ++j) {
        const float value = v[r][order[j]];
        sent[r][order[j]] = test_.half ? testing::HalfPrecision(value) : value;
        v[r][order[j]] = value - sent[r][order[j]];
      }
    }
    const std::vector<size_t> cuts = Cuts(sent);
    const std::vector<bool> accepted = Accepted(sent, cuts);
    Step step;
    for (size_t i = 0; i < kN; ++i) {
      if (accepted[i]) step.out[i] = Sum(sent, i);
      step.accepted += accepted[i] ? 1 : 0;
      for (size_t r = 0; r < kRanks; ++r) {
        if (sent[r][i] == 0) continue;
        if (!accepted[i]) {
          v[r][i] += sent[r][i];
          ++step.rejected;
        } else {
          const auto back = static_cast<float>(1.0 - applied);
          if (back > 0) v[r][i] += back * sent[r][i];
          if (test_.dgc && test_.masking) u[r][i] *= back;
        }
      }
    }
    return step;
  }

  std::vector<Vector> u{kRanks, Vector(kN)};
  std::vector<Vector> v{kRanks, Vector(kN)};

 private:
  void Accumulate(const Vector& g, Vector* momentum, Vector* waiting) const {
    for (size_t i = 0; i < kN; ++i) {
      float& m = (*momentum)[i];
      float add = g[i];
      if (test_.dgc && !test_.nesterov) add = m = kMomentum * m + g[i];
      if (test_.dgc && test_.nesterov) {
        m = kMomentum * (m + g[i]);
        add = m + g[i];
      }
      (*waiting)[i] = add + (*waiting)[i];
    }
  }

  static float Sum(const std::vector<Vector>& sent, size_t i) {
    float sum = 0;
    for (size_t r = 0; r < kRanks; ++r) {
      if (sent[r][i] != 0) sum += (1.0f / kRanks) * sent[r][i];
    }
    return sum;
  }

  // 32 samples of each rank's positions, the i-th at (i + (r + 1/2) / N) / 32 of them; a region begins where
  // another quarter of all samples is over.
  static std::vector<size_t> Cuts(const std::vector<Vector>& sent) {
    std::vector<size_t> samples;
    for (size_t r = 0; r < kRanks; ++r) {
      std::vector<size_t> positions;
      for (size_t i = 0; i < kN; ++i) {
        if (sent[r][i] != 0) positions.push_back(i);
      }
      for (size_t s = 0; s < 32; ++s) {
        const double at = (static_cast<double>(s) + (static_cast<double>(r) + 0.5) / kRanks) / 32;
        samples.push_back(positions[static_cast<size_t>(at * static_cast<double>(positions.size()))]);
      }
    }
    std::sort(samples.begin(), samples.end());
    std::vector<size_t> cuts = {0};
    for (size_t r = 1; r < kRanks; ++r) cuts.push_back(samples[r * samples.size() / kRanks]);
    cuts.push_back(kN);
    return cuts;
  }

  // Blocks of ceil(k / 8N) sums, named by the upper 16 bits of their least one; the greatest blocks are
  // accepted until there are 2k sums.
  static std::vector<bool> Accepted(const std::vector<Vector>& sent, const std::vector<size_t>& cuts) {
    struct Block {
      uint32_t name;
      std::vector<size_t> positions;
    };
    std::vector<Block> blocks;
    const size_t size = (kK + 8 * kRanks - 1) / (8 * kRanks);
    for (size_t r = 0; r < kRanks; ++r) {
      Vector sums(cuts[r + 1] - cuts[r]);
      for (size_t i = 0; i < sums.size(); ++i) sums[i] = Sum(sent, cuts[r] + i);
      std::vector<size_t> order = ByMagnitude(sums);
      std::erase_if(order, [&](size_t i) { return sums[i] == 0; });
      // 3 k (N - 1) / N entries are the most to send, and these have been.
      size_t others = 0;
      for (size_t i = 0; i < kN; ++i) others += (i < cuts[r] || i >= cuts[r + 1]) && sent[r][i] != 0;
      const double left = 3.0 * kK * (kRanks - 1) / kRanks - static_cast<double>(others);
      order.resize(std::min(order.size(), static_cast<size_t>(left / (kRanks - 1))));
      for (size_t i = 0; i < order.size(); ++i) {
        if (i % size == 0) blocks.emplace_back();
        blocks.back().positions.push_back(cuts[r] + order[i]);
        blocks.back().name = std::bit_cast<uint32_t>(std::fabs(sums[order[i]])) >> 16;
      }
    }
    std::stable_sort(blocks.begin(), blocks.end(),
                     [](const Block& a, const Block& b) { return a.name > b.name; });
    std::vector<bool> accepted(kN);
    size_t count = 0;
    for (const Block& block : blocks) {
      for (const size_t position : block.positions) {
        if (count < 2 * kK) accepted[position] = true;
        count += accepted[position] ? 1 : 0;
      }
    }
    return accepted;
  }

  const Case test_;
};

// Applied, skipped, clipped.
double AppliedAt(int step) { return step % 7 == 3 ? 0.0 : step % 11 == 5 ? 0.25 : 1.0; }

class SparseReduceReference : public ::testing::TestWithParam<Case> {};

TEST_P(SparseReduceReference, EveryRankEqualsTheModelToTheBit) {
  const Case& test = GetParam();
  Model model(test);
  std::vector<Vector> expected;
  std::vector<double> submitted(kN);
  std::vector<double> delivered(kN);
  size_t accepted = 0;
  size_t rejected = 0;
  for (int step = 0; step < kSteps; ++step) {
    std::vector<Vector> gradients;
    for (size_t r = 0; r < kRanks; ++r) {
      gradients.push_back(Gradient(test, r, step));
      for (size_t i = 0; i < kN; ++i) {
        const double u = test.dgc ? kMomentum * double{model.u[r][i]} : 0;
        const double g = gradients[r][i];
        submitted[i] += (test.nesterov ? kMomentum * (model.u[r][i] + g) + g : u + g) / kRanks;
      }
    }
    const Model::Step result = model.Run(gradients, AppliedAt(step));
    expected.push_back(result.out);
    accepted += result.accepted;
    rejected += result.rejected;
    for (size_t i = 0; i < kN; ++i) delivered[i] += AppliedAt(step) * result.out[i];
  }
  EXPECT_GT(accepted, 1.5 * kSteps * kK);
  EXPECT_GT(rejected, 0.5 * kSteps * kK) << "much must have come home to be tested";
  double size = 0;
  double error = 0;
  for (size_t i = 0; i < kN; ++i) {
    double waiting = 0;
    for (size_t r = 0; r < kRanks; ++r) waiting += model.v[r][i] / double{kRanks};
    error += std::pow(submitted[i] - delivered[i] - waiting, 2);
    size += std::pow(submitted[i], 2);
  }
  EXPECT_LT(std::sqrt(error), 1e-5 * std::sqrt(size));

  const wire::Config config = TestConfig({{"method", test.dgc ? "dgc" : "allreduce"},
                                          {"compressor", "topk"},
                                          {"topk.density", "0.012"},
                                          {"dgc.density", "0.012"},
                                          {"dgc.nesterov", test.nesterov ? "true" : "false"},
                                          {"dgc.masking", test.masking ? "true" : "false"},
                                          {"topk.values", test.half ? "fp16" : "fp32"},
                                          {"topk.exchange", "sparse_reduce"}});
  RunRanks(kRanks, config, [&](Engine& engine) {
    ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {int64_t{kN}}).ok());
    Vector out(kN);
    for (int step = 0; step < kSteps; ++step) {
      const Vector g = Gradient(test, static_cast<size_t>(engine.rank()), step);
      ASSERT_TRUE(engine.Allreduce({{.tensor = 0, .send = g.data(), .recv = out.data()}}).ok());
      ASSERT_TRUE(engine.Step(AppliedAt(step)).ok());
      ASSERT_EQ(out, expected[static_cast<size_t>(step)]) << "step " << step;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(
    Methods, SparseReduceReference,
    ::testing::Values(Case{.name = "TopK"}, Case{.name = "TopKHalf", .half = true},
                      Case{.name = "TopKSkewed", .skewed = true}, Case{.name = "Dgc", .dgc = true},
                      Case{.name = "DgcNesterov", .dgc = true, .nesterov = true},
                      Case{.name = "DgcUnmasked", .dgc = true, .masking = false},
                      Case{.name = "DgcHalfSkewed", .dgc = true, .half = true, .skewed = true}),
    [](const auto& variant) { return variant.param.name; });

}  // namespace
}  // namespace terse::engine
