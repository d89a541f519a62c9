// SPDX-License-Identifier: Apache-2.0
//
// Density warm-up of sparse methods: the first steps, in which the gradient changes fast and a delayed
// element is soon wrong, send more. Source: Deep Gradient Compression (Lin et al., ICLR 2018), which raises
// the sparsity from 75 to 99.9 % over the first epochs.
#ifndef TERSE_COMPRESSORS_METHODS_DENSITY_WARMUP_H_
#define TERSE_COMPRESSORS_METHODS_DENSITY_WARMUP_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace terse {

// The density of `step`: each of `stages` holds for an equal share of the first `warmup_steps` steps, but
// never sends less than `planned`, which holds afterwards.
inline double WarmedUpDensity(int64_t warmup_steps, const std::vector<double>& stages, uint64_t step,
                              double planned) {
  const auto steps = static_cast<uint64_t>(std::max<int64_t>(warmup_steps, 0));
  if (step >= steps || stages.empty()) return planned;
  const size_t stage = step * stages.size() / steps;
  return std::max(stages[stage], planned);
}

}  // namespace terse

#endif  // TERSE_COMPRESSORS_METHODS_DENSITY_WARMUP_H_
