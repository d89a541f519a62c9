// SPDX-License-Identifier: Apache-2.0
//
// How the SIMD kernels of powersgd that make factors go over the columns of these. They are bound by reading
// the matrix, so each loads a vector of it once for several columns.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_LOW_RANK_GROUPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_LOW_RANK_GROUPS_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_LOW_RANK_GROUPS_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_LOW_RANK_GROUPS_INL_H_
#endif

#include <algorithm>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// Columns of the factors that are worked on together.
constexpr size_t kRankGroup = 4;

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

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_LOW_RANK_GROUPS_INL_H_
