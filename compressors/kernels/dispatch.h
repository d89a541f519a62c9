// SPDX-License-Identifier: Apache-2.0
//
// Which kernels run: the best that the processor has, or those that the environment variable TERSE_SIMD
// names ("scalar", or a Highway target such as "sse4", "avx2", "avx3", in any case). Thread-safe.
#ifndef TERSE_COMPRESSORS_KERNELS_DISPATCH_H_
#define TERSE_COMPRESSORS_KERNELS_DISPATCH_H_

#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "compressors/kernels/kernels.h"

namespace terse::kernels {

// The scalar reference.
const Kernels& ScalarKernels();

// The tables that can run on this processor: the reference first, then SIMD targets, best last.
absl::Span<const Kernels* const> AvailableKernels();

// The table in use: what TERSE_SIMD names, read once, else the best.
const Kernels& ActiveKernels();

// INVALID_ARGUMENT, with the names that are possible here, when TERSE_SIMD names no table that can run;
// the best one is in use then. To be called before work begins, so that a typing error is heard of.
absl::Status CheckSimdEnvironment();

// Makes the table of that name the active one for this object's life. For tests: no other thread may be
// in a codec when it is made or destroyed.
class ScopedKernelsForTest {
 public:
  explicit ScopedKernelsForTest(const Kernels& kernels);
  ~ScopedKernelsForTest();
  ScopedKernelsForTest(const ScopedKernelsForTest&) = delete;
  ScopedKernelsForTest& operator=(const ScopedKernelsForTest&) = delete;

 private:
  const Kernels* previous_;
};

}  // namespace terse::kernels

#endif  // TERSE_COMPRESSORS_KERNELS_DISPATCH_H_
