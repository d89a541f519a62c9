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
  bool rice = false;    // positions
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

  // 6 k (N - 1) / N words for what a rank sends; headers are more than an eighth of so little, and come on
  // top. What a rank's entries leave is shared by the others; as many of the largest sums are accepted.
  std::vector<bool> Accepted(const std::vector<Vector>& sent, const std::vector<size_t>& cuts) const {
    std::vector<bool> accepted(kN);
    for (size_t r = 0; r < kRanks; ++r) {
      Vector sums(cuts[r + 1] - cuts[r]);
      for (size_t i = 0; i < sums.size(); ++i) sums[i] = Sum(sent, cuts[r] + i);
      std::vector<size_t> order = ByMagnitude(sums);
      std::erase_if(order, [&](size_t i) { return sums[i] == 0; });
      size_t entry_bytes = 0;
      for (size_t to = 0; to < kRanks; ++to) {
        if (to != r) entry_bytes += EntryBytes(sent[r], cuts[to], cuts[to + 1]);
      }
      const size_t room = (24 * kK * (kRanks - 1) / kRanks - entry_bytes) / (kRanks - 1);
      while (SumsBytes(sums.size(), order.size()) > room) order.pop_back();
      for (const size_t i : order) accepted[cuts[r] + i] = true;
    }
    return accepted;
  }

  // Of the entries in a region; rice with the parameter that is best for them.
  size_t EntryBytes(const Vector& sent, size_t begin, size_t end) const {
    std::vector<size_t> gaps;
    for (size_t i = begin, next = begin; i < end; ++i) {
      if (sent[i] == 0) continue;
      gaps.push_back(i - next);
      next = i + 1;
    }
    size_t positions = 4 * gaps.size();
    for (size_t p = 0; test_.rice && p < 31; ++p) {
      size_t bits = 0;
      for (const size_t gap : gaps) bits += (gap >> p) + 1 + p;
      positions = std::min(positions, (bits + 31) / 32 * 4);
    }
    return positions + gaps.size() * (test_.half ? 2 : 4);
  }

  // That `count` sums in a region of n elements can take.
  size_t SumsBytes(size_t n, size_t count) const {
    size_t positions = 4 * count;
    for (size_t p = 0; test_.rice && p < 31; ++p) {
      positions = std::min(positions, (((n - count) >> p) + count * (p + 1) + 31) / 32 * 4);
    }
    return positions + 4 * count;
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
  EXPECT_GT(rejected, (test.rice ? 0.05 : 0.5) * kSteps * kK) << "much must have come home to be tested";
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
                                          {"topk.index", test.rice ? "rice" : "u32"},
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
                      Case{.name = "TopKSkewed", .skewed = true}, Case{.name = "TopKRice", .rice = true},
                      Case{.name = "Dgc", .dgc = true},
                      Case{.name = "DgcNesterov", .dgc = true, .nesterov = true},
                      Case{.name = "DgcUnmasked", .dgc = true, .masking = false},
                      Case{.name = "DgcHalfSkewed", .dgc = true, .half = true, .skewed = true},
                      Case{.name = "DgcRice", .dgc = true, .rice = true}),
    [](const auto& variant) { return variant.param.name; });

}  // namespace
}  // namespace terse::engine
