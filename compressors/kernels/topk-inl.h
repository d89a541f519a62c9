// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernel of topk.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_TOPK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_TOPK_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_TOPK_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_TOPK_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <type_traits>

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/momentum-inl.h"
#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// Rows that are tested together: of most groups no element passes.
constexpr size_t kGroupRows = kVectors == 1 ? 4 : 2;

// Where candidates go.
class Candidates {
 public:
  HWY_INLINE Candidates(uint32_t* indices, float* values, size_t capacity)
      : indices_(indices), values_(values), capacity_(capacity) {}

  // Of the row `c`, which begins at index `first`.
  HWY_INLINE void Append(const VF* c, uint32_t first, VF least) {
    MF passes[kVectors];
    for (size_t v = 0; v < kVectors; ++v) passes[v] = hn::Ge(hn::Abs(c[v]), least);
    uint32_t hits = RowBits(passes);
    if (hits == 0) return;
    // Few pass, so a loop over the bits beats a compress on most targets.
    float row[kLanes];
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(c[v], kF32, row + v * kN);
    for (; hits != 0; hits &= hits - 1) {
      const uint32_t lane = static_cast<uint32_t>(std::countr_zero(hits));
      if (count_ < capacity_) {
        indices_[count_] = first + lane;
        values_[count_] = row[lane];
      }
      ++count_;
    }
  }
  size_t count() const { return count_; }

 private:
  uint32_t* indices_;
  float* values_;
  size_t capacity_;
  size_t count_ = 0;
};

// Where c of the vector at element i comes from. Plain is c where all that it is made of is finite, and else
// is not finite either; what belongs to it is stored by Store. Careful is c in any case, stored.
template <bool kResidual>
struct FromResidual {
  using Held = VF;

  const float* input;
  const float* residual;

  HWY_INLINE VF Plain(size_t i, Held& /*held*/) const {
    return hn::LoadU(kF32, (kResidual ? residual : input) + i);
  }
  HWY_INLINE void Store(size_t, VF, const Held&) const {}
  HWY_INLINE VF Careful(size_t i, MF& /*finite*/) const { return Compensated<kResidual>(input, residual, i); }
};

template <bool kResidual>
struct FromInput {
  using Held = VF;

  const float* input;
  float* residual;

  HWY_INLINE VF Plain(size_t i, Held& /*held*/) const {
    const VF x = hn::LoadU(kF32, input + i);
    if constexpr (kResidual) return hn::Add(x, hn::LoadU(kF32, residual + i));
    return x;
  }
  HWY_INLINE void Store(size_t i, VF c, const Held& /*held*/) const {
    if constexpr (kResidual) hn::StoreU(c, kF32, residual + i);
  }
  HWY_INLINE VF Careful(size_t i, MF& finite) const {
    const VF c = Compensate<kResidual>(input, residual, i, finite);
    if constexpr (kResidual) hn::StoreU(c, kF32, residual + i);
    return c;
  }
};

template <bool kDecay, bool kNesterov>
struct FromMomentum {
  using Held = VF;  // what u becomes

  MomentumRule<kDecay, kNesterov> rule;
  float* residual;

  HWY_INLINE VF Plain(size_t i, Held& held) const {
    const auto moved = rule.Next(i);
    held = moved.next;
    return hn::Add(moved.sent, hn::LoadU(kF32, residual + i));
  }
  HWY_INLINE void Store(size_t i, VF c, const Held& held) const {
    hn::StoreU(held, kF32, rule.u + i);
    hn::StoreU(c, kF32, residual + i);
  }
  HWY_INLINE VF Careful(size_t i, MF& finite) const {
    const VF sent = rule.Move(i, finite);
    const VF c = ClampFinite(hn::Add(sent, hn::LoadU(kF32, residual + i)));
    hn::StoreU(c, kF32, residual + i);
    return c;
  }
};

// kRows rows from element i on. Where every plain c is below the least magnitude, all were finite, none is a
// candidate, and that is all. `below` is the magnitude that comes before the least, as bits: bits are
// ordered as magnitudes are, and those of infinities and NaN are above.
template <size_t kRows, typename Source>
HWY_INLINE void CollectGroup(const Source& source, size_t i, uint32_t first, VF least, VI below, MF& finite,
                             Candidates& candidates) {
  VF c[kRows * kVectors];
  typename Source::Held held[kRows * kVectors];
  VI greatest = hn::Zero(kI32);
  for (size_t v = 0; v < kRows * kVectors; ++v) {
    c[v] = source.Plain(i + v * kN, held[v]);
    const VI magnitude = hn::BitCast(kI32, hn::Abs(c[v]));
    greatest = v == 0 ? magnitude : hn::Max(greatest, magnitude);
  }
  if (HWY_LIKELY(hn::AllFalse(kI32, hn::Gt(greatest, below)))) {
    for (size_t v = 0; v < kRows * kVectors; ++v) source.Store(i + v * kN, c[v], held[v]);
    return;
  }
  for (size_t v = 0; v < kRows * kVectors; ++v) c[v] = source.Careful(i + v * kN, finite);
  for (size_t row = 0; row < kRows; ++row) {
    candidates.Append(c + row * kVectors, first + static_cast<uint32_t>(i + row * kLanes), least);
  }
}

template <typename Source>
Kernels::Collected CollectRows(const Source& source, size_t n, uint32_t first, float threshold,
                               Candidates candidates) {
  const VF least = hn::Set(kF32, threshold);
  // With a threshold that is no magnitude (0, NaN) every group is looked at.
  const bool ordered = threshold > 0.0f;
  const VI below = hn::Set(kI32, ordered ? static_cast<int32_t>(std::bit_cast<uint32_t>(threshold)) - 1 : -1);
  MF finite = AllLanes();
  size_t i = 0;
  for (; i + kGroupRows * kLanes <= n; i += kGroupRows * kLanes) {
    CollectGroup<kGroupRows>(source, i, first, least, below, finite, candidates);
  }
  for (; i < n; i += kLanes) CollectGroup<1>(source, i, first, least, below, finite, candidates);
  return {candidates.count(), !hn::AllTrue(kF32, finite)};
}

Kernels::Collected Collect(const Kernels::Gathered& from, size_t n, uint32_t first, float threshold,
                           uint32_t* indices, float* values, size_t capacity) {
  const size_t rows = WholeRows(n);
  const auto run = [&](const auto& source) HWY_ATTR {
    return CollectRows(source, rows, first, threshold, Candidates(indices, values, capacity));
  };
  Kernels::Collected found;
  if (from.momentum != nullptr) {
    VisitMomentum(*from.momentum, from.input, [&](const auto& rule) HWY_ATTR {
      using Rule = std::remove_cvref_t<decltype(rule)>;
      found = run(FromMomentum<Rule::kDecays, Rule::kIsNesterov>{rule, from.residual});
    });
  } else if (from.compensated) {
    found = from.residual == nullptr ? run(FromResidual<false>{from.input, nullptr})
                                     : run(FromResidual<true>{from.input, from.residual});
  } else {
    found = from.residual == nullptr ? run(FromInput<false>{from.input, nullptr})
                                     : run(FromInput<true>{from.input, from.residual});
  }
  if (rows == n) return found;
  const size_t stored = std::min(found.count, capacity);
  Kernels::Gathered last = from;
  last.input += rows;
  if (last.residual != nullptr) last.residual += rows;
  Momentum behind;
  if (from.momentum != nullptr) {
    behind = from.momentum->Behind(rows);
    last.momentum = &behind;
  }
  const Kernels::Collected rest =
      ScalarKernels().collect(last, n - rows, first + static_cast<uint32_t>(rows), threshold,
                              indices + stored, values + stored, capacity - stored);
  return {found.count + rest.count, found.nonfinite || rest.nonfinite};
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_TOPK_INL_H_
