// SPDX-License-Identifier: Apache-2.0
//
// What a rank takes for another rank's samples and load in a sparse-reduce exchange, and what it makes of
// them: whatever the others say, regions cover the tensor and no load is more than was selected.
//
// Input: u8 0 for samples, 1 for a load; u8 ranks; u16 elements; u16 k; the payload, which every rank is
// taken to have sent.
#include "runtime/engine/exchange/sparse_split.h"

#include <algorithm>
#include <vector>

#include "tests/fuzz/fuzz.h"

namespace {

using terse::fuzz::Require;
using namespace terse::engine;

void Samples(terse::wire::Bytes payload, size_t ranks, size_t n, size_t k) {
  const absl::StatusOr<std::vector<uint32_t>> samples = GetSamples(payload, n);
  if (!samples.ok()) {
    Require(samples.status().code() == absl::StatusCode::kDataLoss, "bad samples are DATA_LOSS");
    return;
  }
  std::vector<std::byte> again(SamplesBytes(samples->size()));
  PutSamples(*samples, absl::MakeSpan(again));
  Require(terse::wire::Bytes(again) == payload, "samples that were taken encode to the same bytes");
  size_t end = 0;
  for (const Region& region : CutRegions(std::vector<std::vector<uint32_t>>(ranks, *samples), n)) {
    Require(region.begin == end && region.begin <= region.end, "regions follow each other");
    Require(MostIn(region, *samples, k) <= std::min(k, region.size()), "a region has no more than fits");
    end = region.end;
  }
  Require(end == n, "regions cover the tensor");
}

void Loads(terse::wire::Bytes payload, size_t ranks, size_t n, size_t k) {
  terse::wire::Bytes rest = payload;
  const absl::StatusOr<Load> load = TakeLoad(&rest, k, static_cast<int>(ranks), n);
  if (!load.ok()) {
    Require(load.status().code() == absl::StatusCode::kDataLoss, "a bad load is DATA_LOSS");
    Require(rest == payload, "nothing is taken of it");
    return;
  }
  Require(load->distinct <= load->received && load->distinct <= n && load->received <= ranks * k,
          "a load is no more than was selected");
  std::vector<std::byte> again(kLoadBytes);
  PutLoad(*load, absl::MakeSpan(again));
  Require(terse::wire::Bytes(again) == payload.first(kLoadBytes) && rest == payload.subspan(kLoadBytes),
          "a load that was taken encodes to the same bytes");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  terse::wire::Bytes bytes = terse::fuzz::AsBytes(data, size);
  terse::wire::Reader reader(bytes);
  const bool loads = reader.Get<uint8_t>() % 2 == 1;
  const size_t ranks = size_t{1} + reader.Get<uint8_t>();
  const size_t n = size_t{1} + reader.Get<uint16_t>();
  const size_t k = 1 + reader.Get<uint16_t>() % n;
  if (!reader.ok()) return 0;
  (loads ? Loads : Samples)(bytes.subspan(6), ranks, n, k);
  return 0;
}
