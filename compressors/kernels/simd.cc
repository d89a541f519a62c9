// SPDX-License-Identifier: Apache-2.0
//
// The kernels on Highway: this file is compiled once for every instruction set (foreach_target.h), and
// each compilation fills one table. The unit of work is a row of 16 elements; what is left of a row at
// the end goes to the scalar reference.
#include "compressors/kernels/kernels.h"

// Vectors of unknown length cannot be kept in arrays, as the rows here are; ARM with SVE runs NEON.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "compressors/kernels/simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h, so that they see the target.
#include <bit>
#include <type_traits>
#include <vector>

#include "compressors/kernels/dispatch.h"
#include "hwy/highway.h"
#if HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR
#include "compressors/kernels/elements-inl.h"
#include "compressors/kernels/low_rank_columns-inl.h"
#include "compressors/kernels/low_rank_compensate-inl.h"
#include "compressors/kernels/low_rank_expand-inl.h"
#include "compressors/kernels/low_rank_project-inl.h"
#include "compressors/kernels/momentum-inl.h"
#include "compressors/kernels/onebit_decode-inl.h"
#include "compressors/kernels/onebit_encode-inl.h"
#include "compressors/kernels/quantize_decode-inl.h"
#include "compressors/kernels/quantize_encode-inl.h"
#include "compressors/kernels/rows-inl.h"
#include "compressors/kernels/topk-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR

// Without SIMD the reference is as good.
const Kernels* TargetKernels() { return &ScalarKernels(); }

#else

void Scale(float factor, float* values, size_t n) {
  const size_t rows = WholeRows(n);
  const VF by = hn::Set(kF32, factor);
  for (size_t i = 0; i < rows; i += kN) {
    hn::StoreU(hn::Mul(hn::LoadU(kF32, values + i), by), kF32, values + i);
  }
  ScalarKernels().scale(factor, values + rows, n - rows);
}

void AddScaled(const float* from, float factor, float* values, size_t n) {
  const size_t rows = WholeRows(n);
  const VF by = hn::Set(kF32, factor);
  for (size_t i = 0; i < rows; i += kN) {
    const VF product = hn::Mul(by, hn::LoadU(kF32, from + i));
    hn::StoreU(hn::Add(hn::LoadU(kF32, values + i), product), kF32, values + i);
  }
  ScalarKernels().add_scaled(from + rows, factor, values + rows, n - rows);
}

bool AllFinite(const float* values, size_t n) {
  const size_t rows = WholeRows(n);
  MF finite = AllLanes();
  for (size_t i = 0; i < rows; i += kN) finite = hn::And(finite, Finite(hn::LoadU(kF32, values + i)));
  return hn::AllTrue(kF32, finite) && ScalarKernels().all_finite(values + rows, n - rows);
}

void StreamZeros(float* out, size_t n) {
  const VF zero = hn::Zero(kF32);
  ForStream(out, n, [&](size_t i, auto wide) HWY_ATTR {
    if constexpr (decltype(wide)::value) {
      hn::Stream(zero, kF32, out + i);
    } else {
      out[i] = 0.0f;
    }
  });
}

bool CompensateAll(const float* input, float* residual, size_t n) {
  const size_t rows = WholeRows(n);
  MF finite = AllLanes();
  for (size_t i = 0; i < rows; i += kN) {
    hn::StoreU(Compensate<true>(input, residual, i, finite), kF32, residual + i);
  }
  const bool rest = ScalarKernels().compensate(input + rows, residual + rows, n - rows);
  return !hn::AllTrue(kF32, finite) || rest;
}

const Kernels* TargetKernels() {
  static const Kernels table = [] {
    static char name[16];
    const char* target = hwy::TargetName(HWY_TARGET);
    for (size_t i = 0; i + 1 < sizeof(name) && target[i] != '\0'; ++i) {
      name[i] = static_cast<char>(target[i] >= 'A' && target[i] <= 'Z' ? target[i] - 'A' + 'a' : target[i]);
    }
    return Kernels{
        .name = name,
        .scale = Scale,
        .add_scaled = AddScaled,
        .all_finite = AllFinite,
        .stream_zeros = StreamZeros,
        .compensate = CompensateAll,
        .encode_elements = EncodeElements,
        .decode_elements = DecodeElements,
        .onebit_sum = OneBitSum,
        .onebit_encode = OneBitEncode,
        .onebit_defer = OneBitDefer,
        .onebit_decode = OneBitDecode,
        .range = FindRange,
        .quantize_encode = QuantizeEncode,
        .quantize_decode = QuantizeDecode,
        .project_rows = ProjectRows,
        .project_columns = ProjectColumns,
        .expand = Expand,
        .add_momentum = AddMomentum,
        .collect = Collect,
    };
  }();
  return &table;
}

#endif  // HWY_TARGET

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace terse::kernels {

HWY_EXPORT(TargetKernels);

absl::Span<const Kernels* const> AvailableKernels() {
  // Every target that was compiled has an entry in Highway's table; those that the processor has are
  // taken from the worst to the best, which is the order of their bits from the highest down.
  static const auto* const all = [] {
    auto* tables = new std::vector<const Kernels*>{&ScalarKernels()};
    for (int bit = HWY_HIGHEST_TARGET_BIT; bit >= 0; --bit) {
      const int64_t target = hwy::SupportedTargets() & HWY_TARGETS & (int64_t{1} << bit);
      const uint64_t slot = static_cast<uint64_t>(HWY_CHOSEN_TARGET_SHIFT(target));
      if (slot == 0) continue;
      tables->push_back(HWY_DISPATCH_TABLE(TargetKernels)[std::countr_zero(slot)]());
    }
    return tables;
  }();
  return *all;
}

}  // namespace terse::kernels
#endif  // HWY_ONCE
