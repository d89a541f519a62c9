// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernel of powersgd that multiplies two factors out.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_LOW_RANK_EXPAND_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_LOW_RANK_EXPAND_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_LOW_RANK_EXPAND_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_LOW_RANK_EXPAND_INL_H_
#endif

#include <algorithm>

#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// Columns [begin, end) of the product; the first of them in `out`.
struct Columns {
  size_t begin;
  size_t end;
};

// Of kRows rows of the product, from the row on whose first element of left is given. With kRank, which is
// then the rank, all of left that it takes stays in registers.
template <size_t kRows, size_t kRank>
HWY_INLINE void ExpandRowsAs(const FactorShape& shape, Columns columns, const float* left, const float* right,
                             float weight, Start start, float* out) {
  const size_t rank = kRank == 0 ? shape.rank : kRank;
  VF p[kRows][std::max<size_t>(kRank, 1)];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t k = 0; k < kRank; ++k) p[r][k] = hn::Set(kF32, left[k * shape.rows + r]);
  }
  const auto factor = [&](size_t r, size_t k) HWY_ATTR {
    if constexpr (kRank > 0) return p[r][k];
    return hn::Set(kF32, left[k * shape.rows + r]);
  };
  const VF by = hn::Set(kF32, weight);
  size_t j = columns.begin;
  for (; j + kN <= columns.end; j += kN) {
    VF sum[kRows];
    const VF first = hn::LoadU(kF32, right + j);
    for (size_t r = 0; r < kRows; ++r) sum[r] = hn::Mul(factor(r, 0), first);
    for (size_t k = 1; k < rank; ++k) {
      const VF q = hn::LoadU(kF32, right + k * shape.columns + j);
      for (size_t r = 0; r < kRows; ++r) sum[r] = hn::Add(sum[r], hn::Mul(factor(r, k), q));
    }
    for (size_t r = 0; r < kRows; ++r) {
      float* to = out + r * shape.columns + (j - columns.begin);
      const VF term = hn::Mul(by, sum[r]);
      StoreSum(start, start == Start::kAdd ? hn::Add(hn::LoadU(kF32, to), term) : term, to);
    }
  }
  for (; j < columns.end; ++j) {
    for (size_t r = 0; r < kRows; ++r) {
      float sum = left[r] * right[j];
      for (size_t k = 1; k < rank; ++k) sum += left[k * shape.rows + r] * right[k * shape.columns + j];
      float& to = out[r * shape.columns + (j - columns.begin)];
      to = start == Start::kAdd ? to + weight * sum : weight * sum;
    }
  }
}

template <size_t kRows>
HWY_INLINE void ExpandRows(const FactorShape& shape, Columns columns, const float* left, const float* right,
                           float weight, Start start, float* out) {
  switch (shape.rank) {
    case 1:
      return ExpandRowsAs<kRows, 1>(shape, columns, left, right, weight, start, out);
    case 2:
      return ExpandRowsAs<kRows, 2>(shape, columns, left, right, weight, start, out);
    case 4:
      return ExpandRowsAs<kRows, 4>(shape, columns, left, right, weight, start, out);
    default:
      return ExpandRowsAs<kRows, 0>(shape, columns, left, right, weight, start, out);
  }
}

void Expand(const FactorShape& shape, const float* left, const float* right, float weight, Start start,
            float* out) {
  // Rows whose elements of left fit into the registers.
  constexpr size_t kRows = kVectors == 1 ? 4 : 2;
  // What is streamed is made row by row. With more products each that takes longer than the stores save.
  constexpr size_t kStreamRank = 4;
  // Staged rows read `right` anew by chunks: while it stays in the L1 cache, or is little.
  constexpr size_t kNear = 8192;
  const bool lines = AtLine(out) && shape.columns % kLanes == 0;  // every row is whole lines
  const bool near = shape.rank <= 2 || shape.rank * shape.columns <= kNear;
  const bool streams = shape.rank <= kStreamRank && (lines || (near && CanStage(out, shape.columns)));
  if (!streams) start = StartWithin(start);
  const Columns all{0, shape.columns};
  size_t i = shape.skip_first;
  // Of several rows at once, streaming would write the lines of no row in a go, and takes twice as long.
  for (; !Streams(start) && i + kRows <= shape.end_row(); i += kRows) {
    ExpandRows<kRows>(shape, all, left + i, right, weight, start, out + i * shape.columns);
  }
  for (; i < shape.end_row(); ++i) {
    float* const row = out + i * shape.columns;
    if (Streams(start) && !lines) {
      constexpr size_t kChunk = 1024;  // with as much of `right`, in the L1 cache
      DecodeStaged<kChunk>(start, row, shape.columns,
                           [&](Start here, size_t begin, size_t count, float* to) HWY_ATTR {
                             ExpandRows<1>(shape, {begin, begin + count}, left + i, right, weight, here, to);
                           });
    } else {
      ExpandRows<1>(shape, all, left + i, right, weight, start, row);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_LOW_RANK_EXPAND_INL_H_
