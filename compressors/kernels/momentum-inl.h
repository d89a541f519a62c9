// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernel of the method dgc.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_MOMENTUM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_MOMENTUM_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_MOMENTUM_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_MOMENTUM_INL_H_
#endif

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// The rule with its factors in registers.
template <bool kDecay, bool kNesterov>
struct MomentumRule {
  static constexpr bool kDecays = kDecay;
  static constexpr bool kIsNesterov = kNesterov;

  HWY_INLINE MomentumRule(const Momentum& rule, const float* from)
      : gradient(from),
        parameter(rule.parameter),
        u(rule.u),
        m(hn::Set(kF32, rule.momentum)),
        scale(hn::Set(kF32, rule.scale)),
        decay(hn::Set(kF32, rule.decay)) {}

  // What u becomes and what is sent, as far as all is finite.
  struct Moved {
    VF decayed;
    VF next;
    VF sent;
  };
  HWY_INLINE Moved Next(size_t i) const {
    VF local = hn::Mul(scale, hn::LoadU(kF32, gradient + i));
    if constexpr (kDecay) local = hn::Add(local, hn::Mul(decay, hn::LoadU(kF32, parameter + i)));
    const VF last = hn::LoadU(kF32, u + i);
    const VF decayed = hn::Mul(m, last);
    const VF next = kNesterov ? hn::Mul(m, hn::Add(last, local)) : hn::Add(decayed, local);
    return {decayed, next, kNesterov ? hn::Add(next, local) : next};
  }

  // Moves u at element i and returns what is sent.
  HWY_INLINE VF Move(size_t i, MF& finite) const {
    const Moved moved = Next(i);
    const MF good = Finite(moved.sent);
    finite = hn::And(finite, good);
    hn::StoreU(hn::IfThenElse(good, moved.next, moved.decayed), kF32, u + i);
    return hn::IfThenElse(good, moved.sent, moved.decayed);
  }

  const float* gradient;
  const float* parameter;
  float* u;
  VF m;
  VF scale;
  VF decay;
};

// Calls visit with the rule that fits.
template <typename Visit>
HWY_INLINE void VisitMomentum(const Momentum& rule, const float* gradient, const Visit& visit) {
  if (rule.parameter != nullptr) {
    if (rule.nesterov) return visit(MomentumRule<true, true>(rule, gradient));
    return visit(MomentumRule<true, false>(rule, gradient));
  }
  if (rule.nesterov) return visit(MomentumRule<false, true>(rule, gradient));
  visit(MomentumRule<false, false>(rule, gradient));
}

template <typename Rule>
bool MoveRows(const Rule& rule, float* sent, size_t n) {
  MF finite = AllLanes();
  for (size_t i = 0; i < n; i += kN) {
    const VF x = rule.Move(i, finite);
    if (sent != nullptr) hn::StoreU(x, kF32, sent + i);
  }
  return hn::AllTrue(kF32, finite);
}

bool AddMomentum(const Momentum& rule, const float* gradient, float* sent, size_t n) {
  const size_t rows = WholeRows(n);
  bool finite = true;
  VisitMomentum(rule, gradient,
                [&](const auto& fitting) HWY_ATTR { finite = MoveRows(fitting, sent, rows); });
  if (rows == n) return finite;
  float* rest = sent == nullptr ? nullptr : sent + rows;
  return ScalarKernels().add_momentum(rule.Behind(rows), gradient + rows, rest, n - rows) && finite;
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_MOMENTUM_INL_H_
