// SPDX-License-Identifier: Apache-2.0
//
// The matrix is read as vectors of its shorter side, so that A = sum of a a^T over them is the Gram matrix.
#include <numeric>

#include "compressors/errors/parts.h"
#include "compressors/random_key.h"

namespace terse::errors {
namespace {

// Up to this length of the shorter side the Gram matrix is made whole.
constexpr size_t kNarrow = 128;
// Columns of the subspace beyond the greatest rank that is asked for.
constexpr size_t kMore = 8;
constexpr int kIterations = 2;
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

// width x count, row after row, with orthonormal columns (modified Gram-Schmidt, twice); columns without
// length become zero.
void Orthonormalize(size_t width, size_t count, std::vector<double>* q) {
  for (size_t j = 0; j < count; ++j) {
    const auto column = [&](size_t k) {
      return [q, count, k](size_t i) -> double& { return (*q)[i * count + k]; };
    };
    const auto mine = column(j);
    double before = 0;
    for (size_t i = 0; i < width; ++i) before += mine(i) * mine(i);
    for (int pass = 0; pass < 2; ++pass) {
      for (size_t k = 0; k < j; ++k) {
        const auto other = column(k);
        double dot = 0;
        for (size_t i = 0; i < width; ++i) dot += mine(i) * other(i);
        for (size_t i = 0; i < width; ++i) mine(i) -= dot * other(i);
      }
    }
    double square = 0;
    for (size_t i = 0; i < width; ++i) square += mine(i) * mine(i);
    const double scale = square > 1e-24 * before && square > 0 ? 1 / std::sqrt(square) : 0;
    for (size_t i = 0; i < width; ++i) mine(i) *= scale;
  }
}

// Ritz values of the Gram matrix in a subspace that two of its products have turned to the greatest ones.
std::vector<double> OfSubspace(absl::Span<const float> c, const wire::MatrixView& view, size_t width,
                               size_t count) {
  std::vector<double> q(width * count);
  uint64_t key = 1;
  for (double& x : q) {
    key = Mix(key, 1);
    x = static_cast<double>(key >> 11) * 0x1p-53 - 0.5;
  }
  std::vector<double> product(width * count);
  std::vector<double> y(count);
  Orthonormalize(width, count, &q);
  for (int i = 0;; ++i) {
    std::fill(product.begin(), product.end(), 0.0);
    VisitVectors(c, view, [&](const double* a) {
      std::fill(y.begin(), y.end(), 0.0);
      for (size_t r = 0; r < width; ++r) {
        const double* const row = q.data() + r * count;
        for (size_t j = 0; j < count; ++j) y[j] += a[r] * row[j];
      }
      for (size_t r = 0; r < width; ++r) {
        double* const row = product.data() + r * count;
        for (size_t j = 0; j < count; ++j) row[j] += a[r] * y[j];
      }
    });
    if (i == kIterations) break;
    std::swap(q, product);
    Orthonormalize(width, count, &q);
  }
  Square projected(count);
  for (size_t r = 0; r < width; ++r) {
    for (size_t i = 0; i < count; ++i) {
      for (size_t j = 0; j < count; ++j) projected.at(i, j) += q[r * count + i] * product[r * count + j];
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
  const std::vector<double> values = width <= std::max(kNarrow, count) && width <= 2 * kNarrow
                                         ? OfGram(c, view, width)
                                         : OfSubspace(c, view, width, std::min(count, width));
  double all = 0;
  for (const float x : c) all += Finite(x) * Finite(x);
  std::vector<double> squared;
  squared.reserve(settings.size());
  for (const wire::CodecParams& params : settings) {
    const auto rank = static_cast<size_t>(view.RankWithin(params.rank));
    const double sent = std::accumulate(
        values.begin(), values.begin() + static_cast<ptrdiff_t>(std::min(rank, values.size())), 0.0);
    // A full rank is exact but for rounding.
    squared.push_back(rank == width ? 0.0 : std::max(0.0, all - sent));
  }
  return squared;
}

}  // namespace terse::errors
