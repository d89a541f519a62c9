// SPDX-License-Identifier: Apache-2.0
//
// The matrix is read as vectors of its shorter side, so that A = sum of a a^T over them is the Gram matrix.
#include <numeric>

#include "compressors/errors/parts.h"
#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/vector.h"
#include "compressors/orthonormalize.h"

namespace terse::errors {
namespace {

// Up to this length of the shorter side the Gram matrix is made whole.
constexpr size_t kNarrow = 64;
// Columns of the subspace beyond the greatest rank that is asked for.
constexpr size_t kMore = 8;
constexpr int kIterations = 3;
constexpr int kSweeps = 30;

// A square matrix, row after row.
struct Square {
  size_t n = 0;
  std::vector<double> values;
  explicit Square(size_t size) : n(size), values(size * size, 0.0) {}
  double& at(size_t i, size_t j) { return values[i * n + j]; }
};

// Calls visit(vector) with each of the longer side's vectors, `width` elements as double.
template <typename Visit>
void VisitVectors(absl::Span<const float> c, const wire::MatrixView& view, Visit visit) {
  const auto rows = static_cast<size_t>(view.rows);
  const auto columns = static_cast<size_t>(view.columns);
  if (columns <= rows) {
    std::vector<double> vector(columns);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t j = 0; j < columns; ++j) vector[j] = Finite(c[r * columns + j]);
      visit(vector.data());
    }
    return;
  }
  // Columns, some at a time, so that rows are read in pieces of a cache line.
  constexpr size_t kTogether = 16;
  std::vector<double> vectors(kTogether * rows);
  for (size_t begin = 0; begin < columns; begin += kTogether) {
    const size_t count = std::min(kTogether, columns - begin);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t j = 0; j < count; ++j) vectors[j * rows + r] = Finite(c[r * columns + begin + j]);
    }
    for (size_t j = 0; j < count; ++j) visit(vectors.data() + j * rows);
  }
}

// Eigenvalues of a symmetric matrix, the greatest first, by cyclic Jacobi rotations (Golub and Van Loan,
// section 8.5).
std::vector<double> Eigenvalues(Square a) {
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    double off = 0;
    double all = 0;
    for (size_t i = 0; i < a.n; ++i) {
      for (size_t j = 0; j < a.n; ++j) (i == j ? all : off) += a.at(i, j) * a.at(i, j);
    }
    if (off <= 1e-20 * all || off == 0) break;
    for (size_t p = 0; p < a.n; ++p) {
      for (size_t q = p + 1; q < a.n; ++q) {
        const double apq = a.at(p, q);
        if (apq == 0) continue;
        const double tau = (a.at(q, q) - a.at(p, p)) / (2 * apq);
        const double t = (tau >= 0 ? 1.0 : -1.0) / (std::fabs(tau) + std::hypot(1.0, tau));
        const double cosine = 1 / std::hypot(1.0, t);
        const double sine = t * cosine;
        double* const row_p = &a.at(p, 0);
        double* const row_q = &a.at(q, 0);
        for (size_t i = 0; i < a.n; ++i) {
          const double x = row_p[i];
          const double y = row_q[i];
          row_p[i] = cosine * x - sine * y;
          row_q[i] = sine * x + cosine * y;
        }
        for (size_t i = 0; i < a.n; ++i) {
          const double x = a.at(i, p);
          const double y = a.at(i, q);
          a.at(i, p) = cosine * x - sine * y;
          a.at(i, q) = sine * x + cosine * y;
        }
      }
    }
  }
  std::vector<double> values(a.n);
  for (size_t i = 0; i < a.n; ++i) values[i] = std::max(0.0, a.at(i, i));
  std::sort(values.begin(), values.end(), std::greater<>());
  return values;
}

std::vector<double> OfGram(absl::Span<const float> c, const wire::MatrixView& view, size_t width) {
  Square gram(width);
  VisitVectors(c, view, [&](const double* a) {
    for (size_t i = 0; i < width; ++i) {
      if (a[i] == 0) continue;
      double* const row = &gram.at(i, 0);
      for (size_t j = i; j < width; ++j) row[j] += a[i] * a[j];
    }
  });
  for (size_t i = 0; i < width; ++i) {
    for (size_t j = 0; j < i; ++j) gram.at(i, j) = gram.at(j, i);
  }
  return Eigenvalues(std::move(gram));
}

// Ritz values of the Gram matrix in a subspace that power iterations have turned to the greatest ones, by the
// codec's own kernels.
std::vector<double> OfSubspace(absl::Span<const float> c, const wire::MatrixView& view, size_t count) {
  const kernels::FactorShape shape{
      .rows = static_cast<size_t>(view.rows), .columns = static_cast<size_t>(view.columns), .rank = count};
  const kernels::Kernels& kernels = kernels::ActiveKernels();
  std::vector<double> scratch(std::max(shape.rows, shape.columns));
  std::vector<float> left(shape.rows * count);
  std::vector<float> right(shape.columns * count);  // zero columns become random ones
  std::vector<float> matrix(c.size());
  const std::vector<float> zeros(c.size());
  for (int i = 0; i < kIterations; ++i) {
    Orthonormalize(shape.columns, count, /*key=*/1, right.data(), scratch.data());
    // The first time this copies c, without what is not finite.
    kernels.project_rows(shape, {}, i == 0 ? c.data() : zeros.data(), matrix.data(), right.data(),
                         left.data());
    Orthonormalize(shape.rows, count, /*key=*/2, left.data(), scratch.data());
    kernels.project_columns(shape, matrix.data(), left.data(), right.data(), 0, shape.columns);
  }
  // With orthonormal P and Q = transpose(M) P the values are those of transpose(Q) Q.
  Square projected(count);
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = i; j < count; ++j) {
      double dot = 0;
      for (size_t k = 0; k < shape.columns; ++k) {
        dot += double{right[i * shape.columns + k]} * right[j * shape.columns + k];
      }
      projected.at(i, j) = projected.at(j, i) = dot;
    }
  }
  return Eigenvalues(std::move(projected));
}

}  // namespace

std::vector<double> LowRankErrors(absl::Span<const wire::CodecParams> settings, absl::Span<const float> c,
                                  const wire::MatrixView& view) {
  if (c.empty()) return std::vector<double>(settings.size(), 0.0);
  const auto width = static_cast<size_t>(std::min(view.rows, view.columns));
  size_t most = 1;
  for (const wire::CodecParams& params : settings) {
    most = std::max(most, static_cast<size_t>(view.RankWithin(params.rank)));
  }
  const size_t count = most + kMore;
  const std::vector<double> values =
      width <= kNarrow ? OfGram(c, view, width) : OfSubspace(c, view, std::min(count, width));
  const double norm = kernels::FiniteNorm(c);
  std::vector<double> squared;
  squared.reserve(settings.size());
  for (const wire::CodecParams& params : settings) {
    const auto rank = static_cast<size_t>(view.RankWithin(params.rank));
    const double sent = std::accumulate(
        values.begin(), values.begin() + static_cast<ptrdiff_t>(std::min(rank, values.size())), 0.0);
    // A full rank is exact but for rounding.
    squared.push_back(rank == width ? 0.0 : std::max(0.0, norm * norm - sent));
  }
  return squared;
}

}  // namespace terse::errors
