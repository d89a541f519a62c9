// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernels of the codecs that send each element by itself.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_ELEMENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_ELEMENTS_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_ELEMENTS_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_ELEMENTS_INL_H_
#endif

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/formats-inl.h"
#include "compressors/kernels/rows-inl.h"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

HWY_INLINE void StoreTo(std::byte* out, Halves halves) {
  hn::StoreU(halves, kU16, reinterpret_cast<uint16_t*>(out));
}
HWY_INLINE void StoreTo(std::byte* out, VF c) { hn::StoreU(c, kF32, reinterpret_cast<float*>(out)); }

template <typename Format, bool kResidual>
bool EncodeRows(const float* input, float* residual, size_t n, std::byte* out) {
  MF finite = AllLanes();
  for (size_t i = 0; i < n; i += kN) {
    const VF c = Compensate<kResidual>(input, residual, i, finite);
    const auto code = Format::Encode(Format::Clamp(c));
    StoreTo(out + i * Format::kBytes, Format::Pack(code));
    if constexpr (kResidual) hn::StoreU(hn::Sub(c, Format::Decoded(code)), kF32, residual + i);
  }
  return !hn::AllTrue(kF32, finite);
}

// The codes of two vectors; whole vectors of them, for what is streamed in lesser parts loses its speed.
template <typename Format, bool kStream>
HWY_INLINE void EncodePair(VF first, VF second, std::byte* out) {
  if constexpr (Format::kBytes == 4) {
    constexpr Start kStart = kStream ? Start::kStream : Start::kAssign;
    StoreSum(kStart, Format::Encode(first), reinterpret_cast<float*>(out));
    StoreSum(kStart, Format::Encode(second), reinterpret_cast<float*>(out) + kN);
  } else {
    const HalvesPair codes = Format::PackPair(Format::Encode(first), Format::Encode(second));
    auto* to = reinterpret_cast<uint16_t*>(out);
    kStream ? hn::Stream(codes, kU16Pair, to) : hn::StoreU(codes, kU16Pair, to);
  }
}

constexpr size_t kStep = 2 * kLanes;  // elements

// A step of elements without a residual. Returns whether something was not finite.
template <typename Format, bool kStream>
HWY_INLINE bool EncodeStep(const float* input, std::byte* out) {
  bool found = false;
  VF c[kStep / kN];
  VI greatest = hn::Zero(kI32);
  for (size_t v = 0; v < kStep / kN; ++v) {
    c[v] = hn::LoadU(kF32, input + v * kN);
    greatest = hn::Max(greatest, hn::BitCast(kI32, hn::Abs(c[v])));
  }
  if (HWY_UNLIKELY(!hn::AllTrue(kI32, hn::Lt(greatest, hn::Set(kI32, Format::kCare))))) {
    MF finite = AllLanes();
    for (size_t v = 0; v < kStep / kN; ++v) {
      c[v] = Format::Clamp(Compensate<false>(input, nullptr, v * kN, finite));
    }
    found = !hn::AllTrue(kF32, finite);
  }
  for (size_t v = 0; v < kStep / kN; v += 2) {
    EncodePair<Format, kStream>(c[v], c[v + 1], out + v * kN * Format::kBytes);
  }
  return found;
}

// Without a residual. kStream: around the caches, to an output at a multiple of 64 bytes, and from two places
// at once, for of one alone the memory does not give what it has.
template <typename Format, bool kStream>
bool EncodeInput(const float* input, size_t n, std::byte* out) {
  constexpr size_t kApart = size_t{1} << 16;
  bool found = false;
  size_t i = 0;
  if constexpr (kStream) {
    for (; i + 2 * kApart <= n; i += 2 * kApart) {
      for (size_t at = i; at < i + kApart; at += kStep) {
        found |= EncodeStep<Format, kStream>(input + at, out + at * Format::kBytes);
        found |= EncodeStep<Format, kStream>(input + at + kApart, out + (at + kApart) * Format::kBytes);
      }
    }
  }
  for (; i + kStep <= n; i += kStep) {
    found |= EncodeStep<Format, kStream>(input + i, out + i * Format::kBytes);
  }
  if constexpr (kStream) hwy::FlushStream();
  return EncodeRows<Format, false>(input + i, nullptr, n - i, out + i * Format::kBytes) || found;
}

template <typename Format>
bool EncodeElementsAs(ElementFormat format, const float* input, float* residual, size_t n, std::byte* out) {
  const size_t rows = WholeRows(n);
  const bool streams = BeyondCaches(n * Format::kBytes) && AtLine(out);
  bool found = false;
  if (residual != nullptr) {
    found = EncodeRows<Format, true>(input, residual, rows, out);
  } else if (streams) {
    found = EncodeInput<Format, true>(input, rows, out);
  } else {
    found = EncodeInput<Format, false>(input, rows, out);
  }
  float* rest = residual == nullptr ? nullptr : residual + rows;
  return ScalarKernels().encode_elements(format, input + rows, rest, n - rows, out + rows * Format::kBytes) ||
         found;
}

bool EncodeElements(ElementFormat format, const float* input, float* residual, size_t n, std::byte* out) {
  switch (format) {
    case ElementFormat::kFp32:
      return EncodeElementsAs<Fp32>(format, input, residual, n, out);
    case ElementFormat::kFp16:
      return EncodeElementsAs<Fp16>(format, input, residual, n, out);
    case ElementFormat::kBf16:
      return EncodeElementsAs<Bf16>(format, input, residual, n, out);
  }
  return false;
}

template <typename Format>
struct DecodeElementRows {
  const Peers& peers;
  float weight;
  float* out;
  MF& finite;

  template <size_t kPeers>
  HWY_INLINE void Run(size_t first, Start start, size_t begin, size_t end) const {
    const std::byte* const* data = peers.data + first;
    const VF by = hn::Set(kF32, weight);
    MF good = finite;
    for (size_t i = begin; i < end; i += kN) {
      VF sum = StartValue(start, out + i);
      for (size_t p = 0; p < kPeers; ++p) {
        sum = AddTerm(start, sum, hn::Mul(by, Format::Decode(data[p] + i * Format::kBytes, good)));
      }
      StoreSum(start, sum, out + i);
    }
    finite = good;
  }
};

template <typename Format>
bool DecodeElementsAs(ElementFormat format, const Peers& peers, float weight, Start start, float* out,
                      size_t n) {
  if (IsStaged(start, out, n)) {
    bool all_finite = true;
    DecodeStaged(start, out, n, [&](Start here, size_t begin, size_t count, float* to) HWY_ATTR {
      all_finite &=
          DecodeElementsAs<Format>(format, Behind(peers, begin * Format::kBytes), weight, here, to, count);
    });
    return all_finite;
  }
  const size_t rows = WholeRows(n);
  MF finite = AllLanes();
  DecodeByGroups(peers.count, StartAt(start, out), rows,
                 DecodeElementRows<Format>{peers, weight, out, finite});
  return ScalarKernels().decode_elements(format, Behind(peers, rows * Format::kBytes), weight, start,
                                         out + rows, n - rows) &&
         hn::AllTrue(kF32, finite);
}

bool DecodeElements(ElementFormat format, const Peers& peers, float weight, Start start, float* out,
                    size_t n) {
  switch (format) {
    case ElementFormat::kFp32:
      return DecodeElementsAs<Fp32>(format, peers, weight, start, out, n);
    case ElementFormat::kFp16:
      return DecodeElementsAs<Fp16>(format, peers, weight, start, out, n);
    case ElementFormat::kBf16:
      return DecodeElementsAs<Bf16>(format, peers, weight, start, out, n);
  }
  return false;
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_ELEMENTS_INL_H_
