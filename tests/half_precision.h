// SPDX-License-Identifier: Apache-2.0
//
// Half precision by its definition, for tests that must not share code with what they test.
#ifndef TERSE_TESTS_HALF_PRECISION_H_
#define TERSE_TESTS_HALF_PRECISION_H_

#include <algorithm>
#include <cmath>

namespace terse::testing {

// The nearest half-precision number: a multiple of 2^(e - 10) for 2^e <= |x|, e at least -14, and at most
// 65504. x is finite.
inline float HalfPrecision(float x) {
  if (x == 0) return x;
  const int unit = std::max(std::ilogb(x), -14) - 10;
  return std::clamp(std::ldexp(std::nearbyint(std::ldexp(x, -unit)), unit), -65504.0f, 65504.0f);
}

}  // namespace terse::testing

#endif  // TERSE_TESTS_HALF_PRECISION_H_
