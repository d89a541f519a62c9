// SPDX-License-Identifier: Apache-2.0
//
// The one table of codecs. A codec is a row of compressors.def; build, registry, configuration and tests
// all read that file, so they cannot disagree.
#ifndef TERSE_COMPRESSORS_REGISTRY_H_
#define TERSE_COMPRESSORS_REGISTRY_H_

#include "absl/types/span.h"
#include "compressors/compressor.h"
#include "proto/wire/types.h"

namespace terse {

// The codec with this number, or nullptr for a number that names none. Lives for ever; thread-safe.
const Compressor* FindCompressor(wire::Codec codec);

// All rows of compressors.def, in its order.
absl::Span<const Compressor* const> AllCompressors();

}  // namespace terse

#endif  // TERSE_COMPRESSORS_REGISTRY_H_
