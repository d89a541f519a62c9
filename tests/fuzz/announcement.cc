// SPDX-License-Identifier: Apache-2.0
//
// What a rank takes for another rank's announcement.
#include <vector>

#include "runtime/engine/agreement.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const terse::wire::Bytes bytes = terse::fuzz::AsBytes(data, size);
  const absl::StatusOr<terse::engine::Announcement> announcement = terse::engine::ParseAnnouncement(bytes);
  if (!announcement.ok()) {
    terse::fuzz::Require(announcement.status().code() == absl::StatusCode::kDataLoss,
                         "a bad announcement is DATA_LOSS");
    return 0;
  }
  terse::fuzz::Require(terse::wire::Bytes(terse::engine::EncodeAnnouncement(*announcement)) == bytes,
                       "an announcement that was taken encodes to the same bytes");
  return 0;
}
