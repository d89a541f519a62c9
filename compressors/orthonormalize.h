// SPDX-License-Identifier: Apache-2.0
//
// Orthonormal columns out of any columns.
#ifndef TERSE_COMPRESSORS_ORTHONORMALIZE_H_
#define TERSE_COMPRESSORS_ORTHONORMALIZE_H_

#include <cstddef>
#include <cstdint>

namespace terse {

// Makes `count` columns of `n` floats each, one after the other, orthonormal to fp32's rounding, in place:
// Gram-Schmidt in fp64, each column against those before it twice. A column of which less than 2^-20 is
// left by that (a combination of those before it, or zero), or that is not finite, gives way to a random
// one: so the result has full rank whatever came in, and equal inputs give equal bits on every processor.
// `key` is that of the random columns; `scratch` has n doubles. count <= n.
void Orthonormalize(size_t n, size_t count, uint64_t key, float* columns, double* scratch);

}  // namespace terse

#endif  // TERSE_COMPRESSORS_ORTHONORMALIZE_H_
