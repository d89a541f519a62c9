// SPDX-License-Identifier: Apache-2.0
#include "compressors/registry.h"

#include <array>

namespace terse {

// Declared from the table, so that a new codec needs no line here.
#define TERSE_COMPRESSOR(codec, name, function) const Compressor& function();
#include "compressors/compressors.def"
#undef TERSE_COMPRESSOR

absl::Span<const Compressor* const> AllCompressors() {
  static const std::array kAll = {
#define TERSE_COMPRESSOR(codec, name, function) &function(),
#include "compressors/compressors.def"
#undef TERSE_COMPRESSOR
  };
  return kAll;
}

const Compressor* FindCompressor(wire::Codec codec) {
  switch (codec) {
#define TERSE_COMPRESSOR(enumerator, name, function) \
  case wire::Codec::enumerator:                      \
    return &function();
#include "compressors/compressors.def"
#undef TERSE_COMPRESSOR
    default:
      return nullptr;
  }
}

}  // namespace terse
