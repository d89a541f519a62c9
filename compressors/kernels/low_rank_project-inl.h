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

#include "compressors/kernels/low_rank_expand-inl.h"
#include "compressors/kernels/low_rank_groups-inl.h"
#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// Rows whose sums fit into the registers.
constexpr size_t kDotRows = kVectors == 1 ? 2 : 1;
// Elements that a first pass asks for ahead of time: at most those of the next rows.
constexpr size_t kAhead = 2048;

// What a first pass over kRows rows takes off the residual on the way: nothing, or the part of a product
// whose left elements are p.
struct NothingOff {
  HWY_INLINE void Take(size_t, VF*) const {}
};
template <size_t kRows, size_t kRank>
struct ProductOff {
  VF p[kRows][kRank];
  const float* right;
  size_t stride;

  HWY_INLINE ProductOff(const float* left, size_t left_stride, const float* right_factor, size_t right_stride)
      : right(right_factor), stride(right_stride) {
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t k = 0; k < kRank; ++k) p[r][k] = hn::Set(kF32, left[k * left_stride + r]);
    }
  }
  // Of columns from j on.
  HWY_INLINE void Take(size_t j, VF* held) const {
    VF sum[kRows];
    for (size_t k = 0; k < kRank; ++k) {
      const VF q = hn::LoadU(kF32, right + k * stride + j);
      for (size_t r = 0; r < kRows; ++r) {
        const VF product = hn::Mul(p[r][k], q);
        sum[r] = k == 0 ? product : hn::Add(sum[r], product);
      }
    }
    for (size_t r = 0; r < kRows; ++r) held[r] = hn::Sub(held[r], sum[r]);
  }
};

// Sums of c times right over one chunk of columns, for kRows rows and kRank columns of right.
template <size_t kRows, size_t kRank>
struct Dots {
  VF lanes[kRows][kRank][kVectors];

  HWY_INLINE Dots() {
    for (auto& row : lanes) {
      for (auto& column : row) {
        for (VF& lane : column) lane = hn::Zero(kF32);
      }
    }
  }

  // 16 columns, from column j of `off` on. With kFirst c is made of input and what `off` leaves of the
  // residual, else it is in the residual already.
  template <bool kFirst, typename Off>
  HWY_INLINE void Add(const float* input, float* residual, size_t row_stride, const float* right,
                      size_t right_stride, const Off& off, size_t j, MF& finite) {
    const size_t ahead = std::min(kRows * row_stride, kAhead);
    for (size_t v = 0; v < kVectors; ++v) {
      VF c[kRows];
      for (size_t r = 0; r < kRows; ++r) c[r] = hn::LoadU(kF32, residual + r * row_stride + v * kN);
      if constexpr (kFirst) {
        for (size_t r = 0; r < kRows; ++r) {
          PrefetchAhead(input + r * row_stride + v * kN, ahead);
          PrefetchAhead(residual + r * row_stride + v * kN, ahead);
        }
        off.Take(j + v * kN, c);
        for (size_t r = 0; r < kRows; ++r) {
          const VF x = Compensate<false>(input, nullptr, r * row_stride + v * kN, finite);
          c[r] = ClampFinite(hn::Add(x, c[r]));
        }
        for (size_t r = 0; r < kRows; ++r) hn::StoreU(c[r], kF32, residual + r * row_stride + v * kN);
      }
      for (size_t k = 0; k < kRank; ++k) {
        const VF q = hn::LoadU(kF32, right + k * right_stride + v * kN);
        for (size_t r = 0; r < kRows; ++r) lanes[r][k][v] = hn::Add(lanes[r][k][v], hn::Mul(c[r], q));
      }
    }
  }

  HWY_INLINE float Total(size_t r, size_t k) const {
    float sums[kLanes];
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(lanes[r][k][v], kF32, sums + v * kN);
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
  MF& finite;

  template <size_t kRank>
  HWY_INLINE void Run(size_t first) const {
    if (first == 0) {
      RunAs<kRank, true>(first);
    } else {
      RunAs<kRank, false>(first);
    }
  }

  template <size_t kRank, bool kFirst>
  HWY_INLINE void RunAs(size_t first) const {
    const float* q = right + first * stride;
    const size_t whole = WholeRows(columns);
    Dots<kRows, kRank> dots;
    MF good = finite;
    const auto add = [&](const auto& take) HWY_ATTR {
      for (size_t j = 0; j < whole; j += kLanes) {
        dots.template Add<kFirst>(input + j, residual + j, stride, q + j, stride, take, j, good);
      }
    };
    if constexpr (kOff && kFirst) {
      add(ProductOff<kRows, kRank>(off.left, left_stride, off.right, stride));
    } else {
      add(NothingOff());
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
      dots.template Add<kFirst>(from[0], c[0], kLanes, factor[0], kLanes, NothingOff(), 0, good);
      for (size_t r = 0; r < kRows; ++r) {
        std::memcpy(residual + r * stride + whole, c[r], rest * sizeof(float));
      }
    }
    finite = good;
    for (size_t k = 0; k < kRank; ++k) {
      for (size_t r = 0; r < kRows; ++r) left[(first + k) * left_stride + r] += dots.Total(r, k);
    }
  }
};

template <size_t kRows, bool kOff>
HWY_INLINE void ProjectRowsAt(const FactorShape& shape, size_t i, const Factors& off, const float* input,
                              float* residual, const float* right, float* left, MF& finite) {
  for (size_t chunk = 0; chunk < shape.columns; chunk += kSumChunk) {
    const size_t at = i * shape.columns + chunk;
    Factors part;
    if constexpr (kOff) part = {off.left + i, off.right + chunk};
    ByRankGroups(shape.rank, ProjectChunk<kRows, kOff>{
                                 part, input + at, residual + at, std::min(kSumChunk, shape.columns - chunk),
                                 shape.columns, right + chunk, left + i, shape.rows, finite});
  }
}

template <bool kOff>
HWY_INLINE void ProjectAllRows(const FactorShape& shape, const Factors& off, const float* input,
                               float* residual, const float* right, float* left, MF& finite) {
  size_t i = shape.skip_first;
  for (; i + kDotRows <= shape.end_row(); i += kDotRows) {
    ProjectRowsAt<kDotRows, kOff>(shape, i, off, input, residual, right, left, finite);
  }
  for (; i < shape.end_row(); ++i) {
    ProjectRowsAt<1, kOff>(shape, i, off, input, residual, right, left, finite);
  }
}

bool ProjectRows(const FactorShape& shape, const Factors& off, const float* input, float* residual,
                 const float* right, float* left) {
  for (size_t k = 0; k < shape.rank; ++k) {
    std::fill(left + k * shape.rows + shape.skip_first, left + k * shape.rows + shape.end_row(), 0.0f);
  }
  MF finite = AllLanes();
  if (off.left == nullptr) {
    ProjectAllRows<false>(shape, off, input, residual, right, left, finite);
  } else if (shape.rank <= kRankGroup) {
    ProjectAllRows<true>(shape, off, input, residual, right, left, finite);
  } else {
    // Too many factors for the registers: some rows at a time, so that the second pass finds them in the
    // cache.
    constexpr size_t kTogether = 8;
    for (size_t i = shape.skip_first; i < shape.end_row(); i += kTogether) {
      FactorShape rows = shape;
      rows.skip_first = i;
      rows.skip_last = shape.rows - std::min(shape.end_row(), i + kTogether);
      Expand(rows, off.left, off.right, -1.0f, Start::kAdd, residual);
      ProjectAllRows<false>(rows, off, input, residual, right, left, finite);
    }
  }
  return !hn::AllTrue(kF32, finite);
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_LOW_RANK_PROJECT_INL_H_
