// SPDX-License-Identifier: Apache-2.0
//
// Memory for vectors as long as a gradient: on huge pages, with which a pass over memory takes a fifth to a
// third less time than with small ones (reference: performance.md section 1). Where the system has none, or
// gives none, it is ordinary memory. Thread-safe.
#ifndef TERSE_COMPRESSORS_MEMORY_LARGE_VECTOR_H_
#define TERSE_COMPRESSORS_MEMORY_LARGE_VECTOR_H_

#include <cstddef>
#include <new>
#include <vector>

namespace terse {

// `bytes` of unspecified content, aligned to a cache line of 64 bytes; from one huge page (2 MiB) on, aligned
// to huge pages and backed by them. nullptr when there is no memory. To be freed by FreeLarge.
void* AllocateLarge(size_t bytes);
void FreeLarge(void* memory);

template <typename T>
struct LargeAllocator {
  using value_type = T;  // NOLINT(readability-identifier-naming): the name that containers ask for

  LargeAllocator() = default;
  template <typename Other>
  explicit LargeAllocator(const LargeAllocator<Other>& /*other*/) {}

  T* allocate(size_t n) {
    if (n > static_cast<size_t>(-1) / 2 / sizeof(T)) throw std::bad_alloc();
    void* const memory = AllocateLarge(n * sizeof(T));
    if (memory == nullptr) throw std::bad_alloc();
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, size_t /*n*/) { FreeLarge(memory); }

  friend bool operator==(const LargeAllocator&, const LargeAllocator&) { return true; }
};

// A vector with an element for each of a tensor's.
using FloatVector = std::vector<float, LargeAllocator<float>>;

}  // namespace terse

#endif  // TERSE_COMPRESSORS_MEMORY_LARGE_VECTOR_H_
