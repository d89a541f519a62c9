// SPDX-License-Identifier: Apache-2.0
#include "compressors/memory/large_vector.h"

#include <sys/mman.h>

#include <cstdlib>

namespace terse {
namespace {

constexpr size_t kCacheLine = 64;
constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

void* AllocateLarge(size_t bytes) {
  const size_t alignment = bytes < kHugePage ? kCacheLine : kHugePage;
  const size_t rounded = (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
  // Unlike aligned_alloc it asks for no whole number of huge pages, the last of which would be lost.
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, rounded) != 0) return nullptr;
#ifdef MADV_HUGEPAGE
  // Advice: without it, or where the system does not take it, there are small pages.
  if (alignment == kHugePage) (void)madvise(memory, rounded, MADV_HUGEPAGE);
#endif
  return memory;
}

void FreeLarge(void* memory) { std::free(memory); }

}  // namespace terse
