// SPDX-License-Identifier: Apache-2.0
//
// Made-up gradients that look like real ones to a compressor: Laplace-distributed within a layer, the
// layers' scales log-normal, so a few elements carry most of the norm. No element is zero.
#ifndef TERSE_RUNTIME_CLI_GRADIENT_SOURCE_H_
#define TERSE_RUNTIME_CLI_GRADIENT_SOURCE_H_

#include <cstddef>
#include <cstdint>

namespace terse::cli {

class GradientSource {
 public:
  GradientSource(uint64_t seed, int32_t rank) : seed_(seed), rank_(static_cast<uint64_t>(rank)) {}

  // Equal seed, rank and repetition give equal gradients; the layers' scales depend on the seed alone.
  void Fill(uint64_t repetition, float* gradient, size_t n) const;

 private:
  uint64_t seed_;
  uint64_t rank_;
};

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_GRADIENT_SOURCE_H_
