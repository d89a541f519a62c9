// SPDX-License-Identifier: Apache-2.0
//
// What the SIMD kernels share: the vectors of a target, a row of 16 elements in as many of them as it
// takes, the compensated value c of kernels.h, and decoding by groups of payloads.
#include <cstddef>
#include <cstdint>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_ROWS_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_ROWS_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_ROWS_INL_H_
#endif

#include <algorithm>
#include <cfloat>
#include <type_traits>

#include "compressors/kernels/kernels.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, kLanes>;
using U32 = hn::RebindToUnsigned<F32>;
using I32 = hn::RebindToSigned<F32>;
using U16 = hn::Rebind<uint16_t, F32>;
using VF = hn::Vec<F32>;
using VU = hn::Vec<U32>;
using VI = hn::Vec<I32>;
using MF = hn::Mask<F32>;

constexpr F32 kF32;
constexpr U32 kU32;
constexpr I32 kI32;
constexpr U16 kU16;
constexpr size_t kN = hn::MaxLanes(kF32);  // of a vector
constexpr size_t kVectors = kLanes / kN;   // in a row

HWY_INLINE MF Finite(VF x) { return hn::Le(hn::Abs(x), hn::Set(kF32, FLT_MAX)); }
HWY_INLINE VF ClampFinite(VF x) {
  return hn::Min(hn::Max(x, hn::Set(kF32, -FLT_MAX)), hn::Set(kF32, FLT_MAX));
}

// Has the compiler make these vectors before anything that is made of them. A processor looks for work only
// some dozens of instructions ahead: chains of them for one vector after the other leave its units waiting,
// a step of all chains after the other does not, and a compiler's own order is often the first.
template <size_t kCount>
HWY_INLINE void StepDone([[maybe_unused]] VF* x) {
#if HWY_ARCH_X86
  if constexpr (kCount >= 4) {
    asm("" : "+v"(x[0].raw), "+v"(x[1].raw), "+v"(x[2].raw), "+v"(x[3].raw));
    StepDone<kCount - 4>(x + 4);
  } else if constexpr (kCount >= 2) {
    asm("" : "+v"(x[0].raw), "+v"(x[1].raw));
    StepDone<kCount - 2>(x + 2);
  }
#endif
}

HWY_INLINE size_t WholeRows(size_t n) { return n / kLanes * kLanes; }

// Asks for the line so many elements behind one, which may lie beyond the vector.
HWY_INLINE void PrefetchAhead(const float* from, size_t elements) {
  hwy::Prefetch(reinterpret_cast<const float*>(reinterpret_cast<uintptr_t>(from) + elements * sizeof(float)));
}

// c of the elements at `i`, for the kernel that sees them first.
template <bool kResidual>
HWY_INLINE VF Compensate(const float* input, const float* residual, size_t i, MF& finite) {
  VF x = hn::LoadU(kF32, input + i);
  const MF good = Finite(x);
  finite = hn::And(finite, good);
  x = hn::IfThenElseZero(good, x);
  if constexpr (kResidual) x = ClampFinite(hn::Add(x, hn::LoadU(kF32, residual + i)));
  return x;
}

// c of the elements at `i`, after a first pass has left it in the residual.
template <bool kResidual>
HWY_INLINE VF Compensated(const float* input, const float* residual, size_t i) {
  if constexpr (kResidual) return hn::LoadU(kF32, residual + i);
  const VF x = hn::LoadU(kF32, input + i);
  return hn::IfThenElseZero(Finite(x), x);
}

// Where what is left over goes.
enum class Keep { kNot, kInResidual, kAroundCaches };

// Whether a line of the caches begins there, which stores around them need.
inline bool AtLine(const void* at) { return reinterpret_cast<uintptr_t>(at) % 64 == 0; }

// Whether a residual that is read elsewhere can be written around the caches.
inline bool GoesAround(const float* before, const float* residual) {
  return before != residual && AtLine(residual);
}

template <Keep kKeep>
HWY_INLINE void StoreResidual(VF x, float* residual) {
  if constexpr (kKeep == Keep::kInResidual) hn::StoreU(x, kF32, residual);
  if constexpr (kKeep == Keep::kAroundCaches) hn::Stream(x, kF32, residual);
}

HWY_INLINE MF AllLanes() { return hn::Eq(hn::Zero(kF32), hn::Zero(kF32)); }

// The masks of a row's vectors as 16 bits, element 0 lowest.
HWY_INLINE uint32_t RowBits(const MF* masks) {
  uint8_t bytes[kVectors * (kN < 8 ? 1 : kN / 8)];
  uint32_t bits = 0;
  for (size_t v = 0; v < kVectors; ++v) {
    if constexpr (kN == 16) {
      hn::StoreMaskBits(kF32, masks[v], bytes);
      bits = bytes[0] | uint32_t{bytes[1]} << 8;
    } else {
      hn::StoreMaskBits(kF32, masks[v], bytes + v);
      bits |= uint32_t{bytes[v]} << (v * kN);
    }
  }
  return bits;
}

// The mask of vector v of a row out of the row's two bytes.
HWY_INLINE MF RowMask(const std::byte* row, size_t v) {
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(row) + v * kN / 8;
  if constexpr (kN >= 8) return hn::LoadMaskBits(kF32, bytes);
  uint8_t nibble[8] = {static_cast<uint8_t>((*bytes >> (v * kN % 8)) & 15)};
  return hn::LoadMaskBits(kF32, nibble);
}

// Decoders add up to this many payloads with all that belongs to them in registers.
constexpr size_t kGroup = 4;
static_assert(kStreamPeers <= kGroup);
// Elements of `out` that are decoded from one group after the other while they are in the L1 cache.
constexpr size_t kDecodeChunk = 4096;

// Calls decode.Run<peers>(first peer, start, begin, end) for each group of peers, over chunks of rows.
template <typename Decode>
HWY_INLINE void DecodeByGroups(size_t peers, Start start, size_t rows, const Decode& decode) {
  for (size_t begin = 0; begin < rows; begin += kDecodeChunk) {
    const size_t end = std::min(rows, begin + kDecodeChunk);
    Start from = start;
    for (size_t first = 0; first < peers; first += kGroup) {
      switch (std::min(kGroup, peers - first)) {
        case 1:
          decode.template Run<1>(first, from, begin, end);
          break;
        case 2:
          decode.template Run<2>(first, from, begin, end);
          break;
        case 3:
          decode.template Run<3>(first, from, begin, end);
          break;
        default:
          decode.template Run<kGroup>(first, from, begin, end);
      }
      from = Start::kAdd;
    }
  }
}

// What the sum of a vector starts from; kAssign is left to the term.
HWY_INLINE VF StartValue(Start start, const float* out) {
  return start == Start::kAdd ? hn::LoadU(kF32, out) : hn::Zero(kF32);
}
HWY_INLINE VF AddTerm(Start start, VF sum, VF term) {
  return start == Start::kAssign || start == Start::kStream ? term : hn::Add(sum, term);
}
HWY_INLINE void StoreSum(Start start, VF sum, float* out) {
  if (Streams(start)) {
    hn::Stream(sum, kF32, out);
  } else {
    hn::StoreU(sum, kF32, out);
  }
}
// The same into the caches.
HWY_INLINE Start StartWithin(Start start) {
  return start == Start::kStream ? Start::kAssign : start == Start::kStreamZero ? Start::kZero : start;
}
HWY_INLINE Start StartAt(Start start, const float* out) { return AtLine(out) ? start : StartWithin(start); }

// Calls store(i, wide) for the elements of `out`: a vector at i in the lines of which all is written, which
// can be streamed (a part of one would be slower than a line in the caches), else one element.
template <typename Store>
HWY_INLINE void ForStream(const float* out, size_t n, const Store& store) {
  size_t i = 0;
  for (; i < n && !AtLine(out + i); ++i) store(i, std::false_type());
  for (const size_t end = i + (n - i) / kLanes * kLanes; i < end; i += kN) store(i, std::true_type());
  for (; i < n; ++i) store(i, std::false_type());
}

// Whether lines of the n elements of `out` can be written around the caches where its begin is at none, so
// that the vectors of a decoder's rows cannot: what malloc() returns for a large vector lies 16 bytes behind
// a page's begin. Of few elements, as in a small block, too few lines are whole.
inline bool CanStage(const float* out, size_t n) {
  constexpr size_t kFew = 256;
  return reinterpret_cast<uintptr_t>(out) % sizeof(float) == 0 && n >= kFew;
}
inline bool IsStaged(Start start, const float* out, size_t n) {
  return Streams(start) && !AtLine(out) && CanStage(out, n);
}

// Calls decode(start, begin, count, to) for chunks of `out`, which go by way of the L1 cache.
template <size_t kChunk = kDecodeChunk, typename Decode>
void DecodeStaged(Start start, float* out, size_t n, const Decode& decode) {
  alignas(64) float staged[kChunk];
  const Start here = StartWithin(start);
  for (size_t begin = 0; begin < n; begin += kChunk) {
    const size_t count = std::min(kChunk, n - begin);
    decode(here, begin, count, staged);
    float* const to = out + begin;
    ForStream(to, count, [&](size_t i, auto wide) HWY_ATTR {
      if constexpr (decltype(wide)::value) {
        hn::Stream(hn::LoadU(kF32, staged + i), kF32, to + i);
      } else {
        to[i] = staged[i];
      }
    });
  }
}

// The peers' data from `bytes` on.
HWY_INLINE Peers Behind(const Peers& peers, size_t bytes) {
  Peers rest = peers;
  for (size_t p = 0; p < rest.count; ++p) rest.data[p] += bytes;
  return rest;
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_ROWS_INL_H_
