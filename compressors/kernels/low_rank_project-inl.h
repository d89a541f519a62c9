// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernel of powersgd that makes the left factor: the matrix times a thin one.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_LOW_RANK_PROJECT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_LOW_RANK_PROJECT_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_LOW_RANK_PROJECT_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_LOW_RANK_PROJECT_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "compressors/kernels/low_rank_compensate-inl.h"
#include "compressors/kernels/low_rank_expand-inl.h"
#include "compressors/kernels/low_rank_groups-inl.h"
#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// Rows together: what belongs to them of a left factor fits into the registers, or the sums of one vector's
// lanes.
constexpr size_t kDotRows = kVectors == 1 ? 4 : 2;
// Columns whose c stays in the L1 cache between making it and multiplying it.
constexpr size_t kDotBlock = 1024;

// Sums of c times right over one chunk of columns, for kRows rows and kRank columns of right.
template <size_t kRows, size_t kRank>
struct Dots {
  HWY_ALIGN float lanes[kRows][kRank][kLanes] = {};

  // Of a multiple of 16 columns.
  HWY_INLINE void Add(const float* c, size_t row_stride, const float* right, size_t right_stride,
                      size_t columns) {
    for (size_t v = 0; v < kVectors; ++v) {
      VF sums[kRows][kRank];
      for (size_t r = 0; r < kRows; ++r) {
        for (size_t k = 0; k < kRank; ++k) sums[r][k] = hn::Load(kF32, lanes[r][k] + v * kN);
      }
      for (size_t j = v * kN; j < columns; j += kLanes) {
        VF x[kRows];
        for (size_t r = 0; r < kRows; ++r) x[r] = hn::LoadU(kF32, c + r * row_stride + j);
        for (size_t k = 0; k < kRank; ++k) {
          const VF q = hn::LoadU(kF32, right + k * right_stride + j);
          for (size_t r = 0; r < kRows; ++r) sums[r][k] = hn::Add(sums[r][k], hn::Mul(x[r], q));
        }
      }
      for (size_t r = 0; r < kRows; ++r) {
        for (size_t k = 0; k < kRank; ++k) hn::Store(sums[r][k], kF32, lanes[r][k] + v * kN);
      }
    }
  }

  // Adds the lanes up.
  HWY_INLINE float Total(size_t r, size_t k) {
    float* sums = lanes[r][k];
    for (size_t half = kLanes / 2; half > 0; half /= 2) {
      for (size_t l = 0; l < half; ++l) sums[l] += sums[l + half];
    }
    return sums[0];
  }
};

// One chunk of columns of kRows rows; adds to left, whose columns are left_stride apart. With kOff there is a
// product to take off, of at most kRankGroup columns; its factors are those of the same rows and columns.
template <size_t kRows, bool kOff>
struct ProjectChunk {
  Factors off;
  const float* input;
  float* residual;
  size_t columns;  // of this chunk
  size_t stride;
  const float* right;
  float* left;
  size_t left_stride;
  bool& nonfinite;

  template <size_t kRank>
  HWY_INLINE void Run(size_t first) const {
    if (first == 0) {
      RunAs<kRank, true>(first);
    } else {
      RunAs<kRank, false>(first);
    }
  }

  // The first columns of the factors make c, which the others find in the residual.
  template <size_t kRank, bool kFirst>
  HWY_INLINE void RunAs(size_t first) const {
    const float* q = right + first * stride;
    const size_t whole = WholeRows(columns);
    Dots<kRows, kRank> dots;
    for (size_t begin = 0; begin < whole; begin += kDotBlock) {
      const size_t end = std::min(whole, begin + kDotBlock);
      if constexpr (kFirst && kOff) {
        // Made for each block, so that the sums have the registers afterwards.
        Compensate(ProductOff<kRows, kRank>(off.left, left_stride, off.right, stride), begin, end);
      } else if constexpr (kFirst) {
        Compensate(NothingOff(), begin, end);
      }
      dots.Add(residual + begin, stride, q + begin, stride, end - begin);
    }
    if (const size_t rest = columns - whole; rest > 0) {
      // Filled up with zeros, which add nothing.
      float from[kRows][kLanes] = {};
      float c[kRows][kLanes] = {};
      float factor[kRank][kLanes] = {};
      for (size_t r = 0; r < kRows; ++r) {
        std::memcpy(from[r], input + r * stride + whole, rest * sizeof(float));
        std::memcpy(c[r], residual + r * stride + whole, rest * sizeof(float));
        for (size_t j = 0; kOff && kFirst && j < rest; ++j) {
          float sum = off.left[r] * off.right[whole + j];
          for (size_t k = 1; k < kRank; ++k) {
            sum += off.left[k * left_stride + r] * off.right[k * stride + whole + j];
          }
          c[r][j] -= sum;
        }
      }
      for (size_t k = 0; k < kRank; ++k) {
        std::memcpy(factor[k], q + k * stride + whole, rest * sizeof(float));
      }
      if (kFirst && CompensateCarefully<kRows>(from[0], c[0], kLanes, NothingOff(), 0)) nonfinite = true;
      dots.Add(c[0], kLanes, factor[0], kLanes, kLanes);
      for (size_t r = 0; r < kRows; ++r) {
        std::memcpy(residual + r * stride + whole, c[r], rest * sizeof(float));
      }
    }
    for (size_t k = 0; k < kRank; ++k) {
      for (size_t r = 0; r < kRows; ++r) left[(first + k) * left_stride + r] += dots.Total(r, k);
    }
  }

  template <typename Off>
  HWY_INLINE void Compensate(const Off& take, size_t begin, size_t end) const {
    bool found = false;
    for (size_t j = begin; j < end; j += kLanes) {
      found |= CompensateRows<kRows>(input + j, residual + j, stride, take, j);
    }
    if (found) nonfinite = true;
  }
};

template <size_t kRows, bool kOff>
HWY_INLINE void ProjectRowsAt(const FactorShape& shape, size_t i, const Factors& off, const float* input,
                              float* residual, const float* right, float* left, bool& nonfinite) {
  for (size_t chunk = 0; chunk < shape.columns; chunk += kSumChunk) {
    const size_t at = i * shape.columns + chunk;
    Factors part;
    if constexpr (kOff) part = {off.left + i, off.right + chunk};
    ByRankGroups(shape.rank, ProjectChunk<kRows, kOff>{
                                 part, input + at, residual + at, std::min(kSumChunk, shape.columns - chunk),
                                 shape.columns, right + chunk, left + i, shape.rows, nonfinite});
  }
}

template <bool kOff>
HWY_INLINE void ProjectAllRows(const FactorShape& shape, const Factors& off, const float* input,
                               float* residual, const float* right, float* left, bool& nonfinite) {
  size_t i = shape.skip_first;
  for (; i + kDotRows <= shape.end_row(); i += kDotRows) {
    ProjectRowsAt<kDotRows, kOff>(shape, i, off, input, residual, right, left, nonfinite);
  }
  for (; i < shape.end_row(); ++i) {
    ProjectRowsAt<1, kOff>(shape, i, off, input, residual, right, left, nonfinite);
  }
}

bool ProjectRows(const FactorShape& shape, const Factors& off, const float* input, float* residual,
                 const float* right, float* left) {
  for (size_t k = 0; k < shape.rank; ++k) {
    std::fill(left + k * shape.rows + shape.skip_first, left + k * shape.rows + shape.end_row(), 0.0f);
  }
  bool nonfinite = false;
  if (off.left == nullptr) {
    ProjectAllRows<false>(shape, off, input, residual, right, left, nonfinite);
  } else if (shape.rank <= kRankGroup) {
    ProjectAllRows<true>(shape, off, input, residual, right, left, nonfinite);
  } else {
    // Too many factors for the registers: some rows at a time, so that the second pass finds them in the
    // cache.
    constexpr size_t kTogether = 8;
    for (size_t i = shape.skip_first; i < shape.end_row(); i += kTogether) {
      FactorShape rows = shape;
      rows.skip_first = i;
      rows.skip_last = shape.rows - std::min(shape.end_row(), i + kTogether);
      Expand(rows, off.left, off.right, -1.0f, Start::kAdd, residual);
      ProjectAllRows<false>(rows, off, input, residual, right, left, nonfinite);
    }
  }
  return nonfinite;
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_LOW_RANK_PROJECT_INL_H_
