// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the hang forensics talk of: a vocabulary, two communicators, and places in them.
#ifndef TERSE_TESTS_INTERCEPT_HANG_PLACES_H_
#define TERSE_TESTS_INTERCEPT_HANG_PLACES_H_

#include <cstdint>

#include "runtime/intercept/hang/whereabouts.h"
#include "runtime/intercept/signature.h"

namespace terse::intercept {

inline Vocabulary Words() {
  return {.types = {{"MPI_FLOAT", Vocabulary::TypeKind::kReal}, {"MPI_DOUBLE", Vocabulary::TypeKind::kReal}},
          .ops = {"MPI_SUM", "MPI_MAX"},
          .sum = 0};
}

inline Signature Floats(int64_t count, Form form = Form::kBlocking) {
  return {.count = count, .type_size = 4, .type = 0, .op = 0, .form = form};
}

inline constexpr CommunicatorKey kWorld{7, 0};
inline constexpr CommunicatorKey kHalf{8, 2};

inline Place At(const CommunicatorKey& key, uint64_t ordinal, Stage stage, const Signature& signature,
                double seconds) {
  return {.communicator = key,
          .name = key == kWorld ? "world" : "",
          .size = 4,
          .ordinal = ordinal,
          .stage = stage,
          .signature = signature,
          .seconds = seconds};
}

}  // namespace terse::intercept

#endif  // TERSE_TESTS_INTERCEPT_HANG_PLACES_H_
