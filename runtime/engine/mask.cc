// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/mask.h"

#include <algorithm>
#include <cstring>

#include "proto/wire/checksum.h"

namespace terse::engine {

Mask::Mask(absl::Span<const uint8_t> flags) {
  for (size_t i = 0; i < flags.size(); ++i) {
    if (flags[i] == 0) continue;
    ++kept_;
    if (runs_.empty() || runs_.back().end < i) runs_.push_back({i, i});
    runs_.back().end = i + 1;
  }
  if (kept_ == flags.size()) return;
  const auto* const bytes = reinterpret_cast<const std::byte*>(runs_.data());
  hash_ = std::max<uint64_t>(wire::Fnv1a({bytes, runs_.size() * sizeof(Run)}, flags.size()), 1);
}

void Mask::Pack(size_t element_bytes, const void* from, void* to) const {
  auto* out = static_cast<std::byte*>(to);
  for (const Run& run : runs_) {
    const size_t bytes = (run.end - run.begin) * element_bytes;
    std::memmove(out, static_cast<const std::byte*>(from) + run.begin * element_bytes, bytes);
    out += bytes;
  }
}

void Mask::Unpack(size_t element_bytes, const void* from, size_t n, void* to) const {
  const auto* in = static_cast<const std::byte*>(from);
  auto* const out = static_cast<std::byte*>(to);
  std::memset(out, 0, n * element_bytes);
  for (const Run& run : runs_) {
    const size_t bytes = (run.end - run.begin) * element_bytes;
    std::memcpy(out + run.begin * element_bytes, in, bytes);
    in += bytes;
  }
}

}  // namespace terse::engine
