// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernels of powersgd that make factors: a large matrix times a thin one. They are bound by reading the
// matrix, so each loads a vector of it once for several columns of the factors.
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

#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// Columns of the factors that are worked on together, and rows whose sums fit into the registers.
constexpr size_t kRankGroup = 4;
constexpr size_t kDotRows = kVectors == 1 ? 2 : 1;
// Columns of the matrix whose part of the right factor stays in the L1 cache.
constexpr size_t kColumnTile = 1024;

// Calls body.Run<count>(first) for columns [first, first + count) of the factors, kRankGroup at a time.
template <typename Body>
HWY_INLINE void ByRankGroups(size_t rank, const Body& body) {
  for (size_t first = 0; first < rank; first += kRankGroup) {
    switch (std::min(kRankGroup, rank - first)) {
      case 1:
        body.template Run<1>(first);
        break;
      case 2:
        body.template Run<2>(first);
        break;
      case 3:
        body.template Run<3>(first);
        break;
      default:
        body.template Run<kRankGroup>(first);
    }
  }
}

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

  // 16 columns. With kFirst c is made of input and residual, else it is in the residual already.
  template <bool kFirst>
  HWY_INLINE void Add(const float* input, float* residual, size_t row_stride, const float* right,
                      size_t right_stride, MF& finite) {
    for (size_t v = 0; v < kVectors; ++v) {
      VF c[kRows];
      for (size_t r = 0; r < kRows; ++r) {
        const size_t at = r * row_stride + v * kN;
        if constexpr (kFirst) {
          c[r] = Compensate<true>(input, residual, at, finite);
          hn::StoreU(c[r], kF32, residual + at);
        } else {
          c[r] = hn::LoadU(kF32, residual + at);
        }
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

// One chunk of columns of kRows rows; adds to left, whose columns are left_stride apart.
template <size_t kRows>
struct ProjectChunk {
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
    for (size_t j = 0; j < whole; j += kLanes) {
      dots.template Add<kFirst>(input + j, residual + j, stride, q + j, stride, good);
    }
    if (const size_t rest = columns - whole; rest > 0) {
      // Filled up with zeros, which add nothing.
      float from[kRows][kLanes] = {};
      float c[kRows][kLanes] = {};
      float factor[kRank][kLanes] = {};
      for (size_t r = 0; r < kRows; ++r) {
        std::memcpy(from[r], input + r * stride + whole, rest * sizeof(float));
        std::memcpy(c[r], residual + r * stride + whole, rest * sizeof(float));
      }
      for (size_t k = 0; k < kRank; ++k) {
        std::memcpy(factor[k], q + k * stride + whole, rest * sizeof(float));
      }
      dots.template Add<kFirst>(from[0], c[0], kLanes, factor[0], kLanes, good);
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

template <size_t kRows>
HWY_INLINE void ProjectRowsAt(const FactorShape& shape, size_t i, const float* input, float* residual,
                              const float* right, float* left, MF& finite) {
  for (size_t chunk = 0; chunk < shape.columns; chunk += kSumChunk) {
    const size_t at = i * shape.columns + chunk;
    ByRankGroups(shape.rank,
                 ProjectChunk<kRows>{input + at, residual + at, std::min(kSumChunk, shape.columns - chunk),
                                     shape.columns, right + chunk, left + i, shape.rows, finite});
  }
}

bool ProjectRows(const FactorShape& shape, const float* input, float* residual, const float* right,
                 float* left) {
  for (size_t k = 0; k < shape.rank; ++k) {
    std::fill(left + k * shape.rows + shape.skip_first, left + k * shape.rows + shape.end_row(), 0.0f);
  }
  MF finite = AllLanes();
  size_t i = shape.skip_first;
  for (; i + kDotRows <= shape.end_row(); i += kDotRows) {
    ProjectRowsAt<kDotRows>(shape, i, input, residual, right, left, finite);
  }
  for (; i < shape.end_row(); ++i) ProjectRowsAt<1>(shape, i, input, residual, right, left, finite);
  return !hn::AllTrue(kF32, finite);
}

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

void ProjectColumns(const FactorShape& shape, const float* matrix, const float* left, float* right) {
  std::fill_n(right, shape.rank * shape.columns, 0.0f);
  for (size_t begin = 0; begin < shape.columns; begin += kColumnTile) {
    const size_t end = std::min(shape.columns, begin + kColumnTile);
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

#endif  // TERSE_COMPRESSORS_KERNELS_LOW_RANK_PROJECT_INL_H_
