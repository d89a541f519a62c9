// SPDX-License-Identifier: Apache-2.0
#include "compressors/rice.h"

#include <algorithm>
#include <limits>

namespace terse {
namespace {

constexpr size_t kWordBits = 32;

size_t BytesOf(uint64_t bits) { return (bits + kWordBits - 1) / kWordBits * (kWordBits / 8); }

struct Bound {
  uint32_t parameter = 0;
  uint64_t bits = std::numeric_limits<uint64_t>::max();
};

Bound LeastBound(uint64_t n, uint64_t count) {
  Bound least;
  for (uint32_t p = 0; p <= kMaxRiceParameter; ++p) {
    const uint64_t bits = ((n - count) >> p) + count * (p + 1);
    if (bits < least.bits) least = {p, bits};
  }
  return least;
}

template <typename Visit>
void ForEachGap(absl::Span<const uint32_t> positions, const Visit& visit) {
  uint64_t next = 0;
  for (const uint32_t position : positions) {
    visit(position - next);
    next = uint64_t{position} + 1;
  }
}

// Bits, least significant first, in words of 32.
class WordWriter {
 public:
  explicit WordWriter(std::byte* out) : out_(out) {}

  void Put(uint64_t bits, uint32_t count) {  // count <= 32
    pending_ |= bits << fill_;
    fill_ += count;
    if (fill_ < kWordBits) return;
    Flush();
    pending_ >>= kWordBits;
    fill_ -= kWordBits;
  }
  void PutZeros(uint64_t count) {
    for (; count >= kWordBits; count -= kWordBits) Put(0, kWordBits);
    Put(0, static_cast<uint32_t>(count));
  }
  void Finish() {
    if (fill_ != 0) Flush();
  }

 private:
  void Flush() {
    wire::Store(out_, static_cast<uint32_t>(pending_));
    out_ += sizeof(uint32_t);
  }

  std::byte* out_;
  uint64_t pending_ = 0;
  uint32_t fill_ = 0;
};

}  // namespace

size_t RiceMaxBytes(size_t n, size_t count) { return BytesOf(LeastBound(n, count).bits); }

RicePlan PlanRice(size_t n, absl::Span<const uint32_t> positions) {
  // The parameter of the worst case keeps the length within its bound; the best for these gaps is it or
  // a neighbour.
  const uint32_t middle = LeastBound(n, positions.size()).parameter;
  const uint32_t first = middle == 0 ? 0 : middle - 1;
  uint64_t zeros[3] = {0, 0, 0};
  ForEachGap(positions, [&](uint64_t gap) {
    for (uint32_t i = 0; i < 3; ++i) zeros[i] += gap >> (first + i);
  });
  RicePlan plan;
  uint64_t least = std::numeric_limits<uint64_t>::max();
  for (uint32_t p = first; p < std::min(first + 3, kMaxRiceParameter + 1); ++p) {
    const uint64_t bits = zeros[p - first] + positions.size() * (p + 1);
    if (bits < least) {
      least = bits;
      plan.parameter = p;
    }
  }
  plan.bytes = BytesOf(least);
  return plan;
}

void EncodeRice(const RicePlan& plan, absl::Span<const uint32_t> positions, std::byte* out) {
  WordWriter writer(out);
  ForEachGap(positions, [&](uint64_t gap) {
    writer.PutZeros(gap >> plan.parameter);
    writer.Put(1, 1);
    writer.Put(gap & ((uint64_t{1} << plan.parameter) - 1), plan.parameter);
  });
  writer.Finish();
}

}  // namespace terse
