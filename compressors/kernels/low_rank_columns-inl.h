// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernel of powersgd that makes the right factor: the transposed matrix times a thin one.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_LOW_RANK_COLUMNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_LOW_RANK_COLUMNS_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_LOW_RANK_COLUMNS_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_LOW_RANK_COLUMNS_INL_H_
#endif

#include <algorithm>

#include "compressors/kernels/low_rank_groups-inl.h"
#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// Columns of the matrix whose part of the right factor stays in the L1 cache.
constexpr size_t kColumnTile = 1024;

// kRows (4 or 1) rows of the matrix from row i on, times left, added to right over one tile of columns.
template <size_t kRows>
struct ProjectRowsDown {
  const FactorShape& shape;
  const float* matrix;  // row i
  const float* left;    // its element of the first column
  float* right;
  size_t begin;
  size_t end;

  template <size_t kRank>
  HWY_INLINE void Run(size_t first) const {
    VF p[kRows][kRank];
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t k = 0; k < kRank; ++k) p[r][k] = hn::Set(kF32, left[(first + k) * shape.rows + r]);
    }
    size_t j = begin;
    for (; j + kN <= end; j += kN) {
      VF c[kRows];
      for (size_t r = 0; r < kRows; ++r) c[r] = hn::LoadU(kF32, matrix + r * shape.columns + j);
      for (size_t k = 0; k < kRank; ++k) {
        VF sum = hn::Mul(c[0], p[0][k]);
        if constexpr (kRows == 4) {
          sum = hn::Add(hn::Add(sum, hn::Mul(c[1], p[1][k])),
                        hn::Add(hn::Mul(c[2], p[2][k]), hn::Mul(c[3], p[3][k])));
        }
        float* q = right + (first + k) * shape.columns + j;
        hn::StoreU(hn::Add(hn::LoadU(kF32, q), sum), kF32, q);
      }
    }
    for (; j < end; ++j) {
      for (size_t k = first; k < first + kRank; ++k) {
        const auto product = [&](size_t r) {
          return matrix[r * shape.columns + j] * left[k * shape.rows + r];
        };
        float sum = product(0);
        if constexpr (kRows == 4) sum = (sum + product(1)) + (product(2) + product(3));
        right[k * shape.columns + j] += sum;
      }
    }
  }
};

void ProjectColumns(const FactorShape& shape, const float* matrix, const float* left, float* right,
                    size_t first, size_t last) {
  for (size_t k = 0; k < shape.rank; ++k) {
    std::fill(right + k * shape.columns + first, right + k * shape.columns + last, 0.0f);
  }
  for (size_t begin = first; begin < last; begin += kColumnTile) {
    const size_t end = std::min(last, begin + kColumnTile);
    size_t i = 0;
    for (; i + 4 <= shape.rows; i += 4) {
      const ProjectRowsDown<4> body{shape, matrix + i * shape.columns, left + i, right, begin, end};
      ByRankGroups(shape.rank, body);
    }
    for (; i < shape.rows; ++i) {
      const ProjectRowsDown<1> body{shape, matrix + i * shape.columns, left + i, right, begin, end};
      ByRankGroups(shape.rank, body);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_LOW_RANK_COLUMNS_INL_H_
