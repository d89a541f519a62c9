// SPDX-License-Identifier: Apache-2.0
//
// What `terse bench kernels` measures: the product's own paths (codecs, and the method dgc with its codec),
// each over memory of its own.
#ifndef TERSE_RUNTIME_CLI_KERNELS_KERNEL_PATHS_H_
#define TERSE_RUNTIME_CLI_KERNELS_KERNEL_PATHS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace terse::cli {

// One way of doing one kernel's work. Not thread-safe. Methods throw std::runtime_error when the product
// refuses.
class KernelPath {
 public:
  virtual ~KernelPath() = default;

  // Makes what the first Run needs, out of a gradient that it will not see. Not measured.
  virtual void Prepare(std::span<const float> gradient) {}

  // What is measured: the work of one step over one gradient of as many elements as the path was made for.
  virtual void Run(uint64_t step, std::span<const float> gradient) = 0;
};

// The kernel ids, in the order in which they are shown.
std::vector<std::string> KernelIds();

// The paths of one kernel for gradients of n > 0 elements. The slowest counts. Empty for an unknown id.
std::vector<std::unique_ptr<KernelPath>> MakeKernelPaths(std::string_view id, size_t n);

// The instruction sets that this build has and this processor runs, the best last.
std::vector<std::string> KernelTargets();

// The instruction set in use, as Highway writes it ("AVX3"). Throws std::invalid_argument when TERSE_SIMD
// names none that runs here.
std::string KernelTarget();

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_KERNELS_KERNEL_PATHS_H_
