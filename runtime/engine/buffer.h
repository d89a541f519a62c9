// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_RUNTIME_ENGINE_BUFFER_H_
#define TERSE_RUNTIME_ENGINE_BUFFER_H_

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

#include "absl/types/span.h"

namespace terse::engine {

// Grow-only memory for one purpose, used again from step to step, aligned to 64 bytes. Its content does
// not survive growth. Plain data only.
template <typename T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  // n elements; what they hold is unspecified. Throws std::bad_alloc.
  absl::Span<T> Get(size_t n) {
    if (n > capacity_) {
      memory_.reset();
      capacity_ = 0;
      const size_t bytes = (n * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
      memory_.reset(static_cast<T*>(std::aligned_alloc(kAlignment, bytes)));
      if (memory_ == nullptr) throw std::bad_alloc();
      capacity_ = n;
    }
    return absl::MakeSpan(memory_.get(), n);
  }

 private:
  static constexpr size_t kAlignment = 64;
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> memory_;
  size_t capacity_ = 0;
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_BUFFER_H_
