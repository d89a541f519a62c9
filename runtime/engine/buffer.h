// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_RUNTIME_ENGINE_BUFFER_H_
#define TERSE_RUNTIME_ENGINE_BUFFER_H_

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>

#include "absl/types/span.h"
#include "compressors/memory/large_vector.h"

namespace terse::engine {

// Grow-only memory for one purpose, used again from step to step, aligned to 64 bytes and where it is large
// on huge pages. Its content does not survive growth. Plain data only.
template <typename T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  // n elements; what they hold is unspecified. Throws std::bad_alloc.
  absl::Span<T> Get(size_t n) {
    if (n > capacity_) {
      memory_.reset();
      capacity_ = 0;
      memory_.reset(static_cast<T*>(AllocateLarge(n * sizeof(T))));
      if (memory_ == nullptr) throw std::bad_alloc();
      capacity_ = n;
    }
    return absl::MakeSpan(memory_.get(), n);
  }

  size_t capacity() const { return capacity_; }

  void Release() {
    memory_.reset();
    capacity_ = 0;
  }

 private:
  struct Free {
    void operator()(T* p) const { FreeLarge(p); }
  };
  std::unique_ptr<T, Free> memory_;
  size_t capacity_ = 0;
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_BUFFER_H_
