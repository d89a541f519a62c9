// SPDX-License-Identifier: Apache-2.0
//
// Times kernels against a memcpy of the same gradient, in turns. Kernels are bound by memory, whose speed
// changes with what else the machine does: the ratio of the two stays.
#ifndef TERSE_RUNTIME_CLI_KERNELS_KERNEL_BENCH_H_
#define TERSE_RUNTIME_CLI_KERNELS_KERNEL_BENCH_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace terse::cli {

struct KernelResult {
  std::string kernel;  // its id
  size_t elements = 0;
  int threads = 1;
  std::string target;    // the instruction set
  double ms = 0;         // median
  double memcpy_ms = 0;  // median
  int kept = 0;          // repetitions that count

  double ratio() const { return ms / memcpy_ms; }
};

// Fills memory with gradients, for ever the same.
using FillGradient = std::function<void(std::span<float>)>;

// Measures gradients of n elements. All of a size share one gradient and one place that it is copied to.
class KernelBench {
 public:
  // Throws std::bad_alloc.
  KernelBench(size_t n, const FillGradient& fill);
  ~KernelBench();
  KernelBench(const KernelBench&) = delete;
  KernelBench& operator=(const KernelBench&) = delete;

  // `kernel` is one of KernelIds(); kernel and memcpy are divided among so many threads. repeat 0: as many
  // repetitions as the size needs. Repetitions in which a thread of the process was preempted do not count,
  // provided that half of them remain. Throws std::runtime_error when the product refuses to work.
  KernelResult Measure(const std::string& kernel, int threads, int repeat);

 private:
  struct Memory;
  Memory* memory_;
};

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_KERNELS_KERNEL_BENCH_H_
