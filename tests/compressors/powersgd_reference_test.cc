// SPDX-License-Identifier: Apache-2.0
//
// powersgd against a double-precision model of the published equations, written for this test alone.
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/compressors/low_rank_ranks.h"

namespace terse {
namespace {

using ::terse::testing::Distance;
using ::terse::testing::Doubles;
using ::terse::testing::Gradients;
using ::terse::testing::LowRankParams;
using ::terse::testing::LowRankRanks;
using ::terse::testing::Norm;
using ::terse::testing::Normal;
using ::terse::testing::Vector;
using wire::LowRankError;

// Algorithm 1 of Vogels et al. as it is written, in fp64, with either error. Columns are vectors.
//
// Error feedback makes the directions of P chaotic: what is not sent grows until it turns them, so that a
// rounding error doubles every few steps. The model finds its own P in each step and holds the run's to it;
// then it goes on with the run's. All other numbers are its own.
class Model {
 public:
  Model(size_t rows, size_t columns, size_t ranks, LowRankError error, const Vector& start)
      : rows_(rows), columns_(columns), error_(error), e(ranks, Doubles(rows * columns)) {
    for (size_t k = 0; k < start.size() / columns; ++k) {
      q_.emplace_back(start.begin() + static_cast<ptrdiff_t>(k * columns),
                      start.begin() + static_cast<ptrdiff_t>((k + 1) * columns));
    }
  }

  Doubles Step(const std::vector<Vector>& gradients, const std::vector<Doubles>& run_p, double applied) {
    const size_t ranks = e.size();
    std::vector<Doubles> m = e;
    for (size_t r = 0; r < ranks; ++r) {
      for (size_t i = 0; i < m[r].size(); ++i) m[r][i] += gradients[r][i];
    }
    GramSchmidt(q_);
    std::vector<Doubles> p(q_.size(), Doubles(rows_));
    for (const Doubles& matrix : m) {
      for (size_t k = 0; k < q_.size(); ++k) {
        for (size_t i = 0; i < rows_; ++i) {
          for (size_t j = 0; j < columns_; ++j) p[k][i] += matrix[i * columns_ + j] * q_[k][j];
        }
      }
    }
    ExpectSameSpan(p, run_p);
    p = run_p;
    std::vector<std::vector<Doubles>> own(ranks, std::vector<Doubles>(q_.size(), Doubles(columns_)));
    std::vector<Doubles> mean(q_.size(), Doubles(columns_));
    for (size_t r = 0; r < ranks; ++r) {
      for (size_t k = 0; k < q_.size(); ++k) {
        for (size_t j = 0; j < columns_; ++j) {
          for (size_t i = 0; i < rows_; ++i) own[r][k][j] += m[r][i * columns_ + j] * p[k][i];
          mean[k][j] += own[r][k][j] / double(ranks);
        }
      }
    }
    const Doubles result = Product(p, mean);
    for (size_t r = 0; r < ranks; ++r) {
      const Doubles sent = error_ == LowRankError::kAveraged ? result : Product(p, own[r]);
      for (size_t i = 0; i < sent.size(); ++i) e[r][i] = m[r][i] - applied * sent[i];
    }
    q_ = mean;
    return result;
  }

 private:
  // `orthonormal` is that, and what it leaves of `columns` is rounding.
  static void ExpectSameSpan(const std::vector<Doubles>& columns, const std::vector<Doubles>& orthonormal) {
    double left = 0;
    double all = 0;
    for (Doubles column : columns) {
      all += Norm(column) * Norm(column);
      for (const Doubles& p : orthonormal) Subtract(Dot(p, column), p, column);
      left += Norm(column) * Norm(column);
    }
    EXPECT_LE(std::sqrt(left), 1e-5 * std::sqrt(all));
    for (size_t j = 0; j < orthonormal.size(); ++j) {
      for (size_t k = 0; k <= j; ++k) {
        EXPECT_NEAR(Dot(orthonormal[j], orthonormal[k]), j == k ? 1.0 : 0.0, 1e-6);
      }
    }
  }
  static double Dot(const Doubles& a, const Doubles& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  }
  static void Subtract(double part, const Doubles& other, Doubles& column) {
    for (size_t i = 0; i < column.size(); ++i) column[i] -= part * other[i];
  }
  static void GramSchmidt(std::vector<Doubles>& columns) {
    for (size_t k = 0; k < columns.size(); ++k) {
      for (size_t j = 0; j < k; ++j) Subtract(Dot(columns[j], columns[k]), columns[j], columns[k]);
      const double norm = Norm(columns[k]);
      for (double& x : columns[k]) x /= norm;
    }
  }
  Doubles Product(const std::vector<Doubles>& p, const std::vector<Doubles>& q) const {
    Doubles out(rows_ * columns_);
    for (size_t k = 0; k < p.size(); ++k) {
      for (size_t i = 0; i < rows_; ++i) {
        for (size_t j = 0; j < columns_; ++j) out[i * columns_ + j] += p[k][i] * q[k][j];
      }
    }
    return out;
  }

  const size_t rows_;
  const size_t columns_;
  const LowRankError error_;
  std::vector<Doubles> q_;

 public:
  std::vector<Doubles> e;
};

struct ModelCase {
  std::string name;
  uint32_t rank;
  int64_t rows;
  int64_t columns;
  LowRankError error;
};

class AgainstModel : public ::testing::TestWithParam<ModelCase> {};

TEST_P(AgainstModel, TwoHundredSteps) {
  const ModelCase& test = GetParam();
  const auto rows = static_cast<size_t>(test.rows);
  const auto columns = static_cast<size_t>(test.columns);
  LowRankRanks ranks(LowRankParams(test.rank, test.error), test.rows, test.columns, 4);
  const Vector start = Normal(test.rank * columns, 4);
  ranks.SetState(start);
  Model model(rows, columns, 4, test.error, start);
  for (int step = 0; step < 200; ++step) {
    const double applied = step % 13 == 5 ? 0.0 : (step % 17 == 3 ? 0.25 : 1.0);
    const std::vector<Vector> gradients = Gradients(4, rows, columns, step);
    ranks.Exchange(gradients);
    ranks.Return(static_cast<float>(1.0 - applied));
    SCOPED_TRACE(absl::StrCat("step ", step));
    const Doubles expected = model.Step(gradients, ranks.Left(test.rank), applied);
    ASSERT_LE(Distance(ranks.out, expected), 1e-5 * Norm(expected));
    for (size_t r = 0; r < 4; ++r) {
      ASSERT_LE(Distance(ranks.residuals[r], model.e[r]), 1e-5 * Norm(model.e[r]));
    }
    ASSERT_FALSE(HasFailure());
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, AgainstModel,
                         ::testing::Values(ModelCase{"Rank1Local", 1, 12, 9, LowRankError::kLocal},
                                           ModelCase{"Rank1Averaged", 1, 12, 9, LowRankError::kAveraged},
                                           ModelCase{"Rank2Local", 2, 7, 33, LowRankError::kLocal},
                                           ModelCase{"Rank2Averaged", 2, 7, 33, LowRankError::kAveraged},
                                           ModelCase{"Rank4Local", 4, 20, 15, LowRankError::kLocal},
                                           ModelCase{"Rank4Averaged", 4, 20, 15, LowRankError::kAveraged},
                                           ModelCase{"Rank6Local", 6, 18, 40, LowRankError::kLocal},
                                           ModelCase{"Rank6Averaged", 6, 18, 40, LowRankError::kAveraged}),
                         [](const auto& variant) { return variant.param.name; });

}  // namespace
}  // namespace terse
