// SPDX-License-Identifier: Apache-2.0
//
// How codecs decode one payload or add up many: through one function that takes as many payloads as a
// kernel does.
#ifndef TERSE_COMPRESSORS_DECODE_GROUPS_H_
#define TERSE_COMPRESSORS_DECODE_GROUPS_H_

#include <algorithm>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "compressors/compressor.h"
#include "compressors/kernels/kernels.h"

namespace terse {

inline kernels::Start StartOf(Accumulate accumulate) {
  switch (accumulate) {
    case Accumulate::kAdd:
      return kernels::Start::kAdd;
    case Accumulate::kAssignAround:
      return kernels::Start::kStream;
    case Accumulate::kAssign:
      break;
  }
  return kernels::Start::kAssign;
}

// DecodeSum by `decode(payloads, start)`, which decodes one to kMaxPeers payloads into `out` and returns
// absl::Status. Stops at the first error.
template <typename DecodeGroup>
absl::Status DecodeSumByGroups(absl::Span<const wire::Bytes> payloads, absl::Span<float> out,
                               const DecodeGroup& decode) {
  if (payloads.empty()) std::fill(out.begin(), out.end(), 0.0f);
  const bool around =
      payloads.size() <= kernels::kStreamPeers && kernels::BeyondCaches(out.size() * sizeof(float));
  kernels::Start start = around ? kernels::Start::kStreamZero : kernels::Start::kZero;
  while (!payloads.empty()) {
    const absl::Span<const wire::Bytes> group = payloads.subspan(0, kernels::kMaxPeers);
    if (absl::Status status = decode(group, start); !status.ok()) return status;
    payloads.remove_prefix(group.size());
    start = kernels::Start::kAdd;
  }
  return absl::OkStatus();
}

}  // namespace terse

#endif  // TERSE_COMPRESSORS_DECODE_GROUPS_H_
