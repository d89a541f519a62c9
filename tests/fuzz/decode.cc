// SPDX-License-Identifier: Apache-2.0
//
// Payloads that nobody vouches for, through Decode, DecodeSum and Support of every codec.
#include <algorithm>
#include <vector>

#include "compressors/kernels/dispatch.h"
#include "tests/fuzz/codec_input.h"
#include "tests/fuzz/fuzz.h"

namespace terse::fuzz {
namespace {

using ::terse::testing::Bits;
using ::terse::testing::CodecCase;
using ::terse::testing::Tensor;

constexpr float kWeight = 0.7f;

// Nothing when the payload is refused.
std::optional<std::vector<float>> Decoded(const CodecCase& test_case, wire::Bytes payload, size_t n) {
  std::vector<float> out(n);
  const absl::Status status =
      test_case.codec->Decode(test_case.params, payload, 1.0f, Accumulate::kAssign, absl::MakeSpan(out));
  if (!status.ok()) return std::nullopt;
  return out;
}

void RequireSumAsRepeatedDecoding(const CodecCase& test_case, wire::Bytes payload, size_t n) {
  const std::vector<wire::Bytes> payloads(3, payload);
  std::vector<float> expected(n);
  for (const wire::Bytes each : payloads) {
    Require(
        test_case.codec->Decode(test_case.params, each, kWeight, Accumulate::kAdd, absl::MakeSpan(expected))
            .ok(),
        "what decodes can be added");
  }
  std::vector<float> sum(n, 1.0f);
  Require(test_case.codec->DecodeSum(test_case.params, payloads, kWeight, absl::MakeSpan(sum)).ok(),
          "what decodes can be summed");
  Require(Bits(sum) == Bits(expected), "a sum has the bits of repeated decoding");
}

void RequireSupport(const CodecCase& test_case, wire::Bytes payload, const std::vector<float>& decoded) {
  std::vector<uint32_t> indices(decoded.size());
  const absl::StatusOr<size_t> count =
      test_case.codec->Support(test_case.params, payload, decoded.size(), absl::MakeSpan(indices));
  Require(count.ok(), "what decodes has a support");
  indices.resize(*count);
  for (size_t i = 0; i < decoded.size(); ++i) {
    Require(decoded[i] == 0.0f || std::binary_search(indices.begin(), indices.end(), i),
            "an element outside of the support is 0");
  }
}

void RequireItsLength(const CodecCase& test_case, const std::vector<std::byte>& payload, size_t n) {
  std::vector<std::byte> other = payload;
  other.push_back(std::byte{0});
  Require(!Decoded(test_case, other, n), "a payload with a byte too many is refused");
  if (payload.empty()) return;
  other.resize(payload.size() - 1);
  Require(!Decoded(test_case, other, n), "a payload without its last byte is refused");
}

// Codecs whose every payload is the only one of its values.
bool IsOneToOne(wire::Codec codec) {
  return codec == wire::Codec::kNone || codec == wire::Codec::kFp16 || codec == wire::Codec::kBf16;
}

}  // namespace
}  // namespace terse::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace terse;        // NOLINT(google-build-using-namespace): of this function alone
  using namespace terse::fuzz;  // NOLINT(google-build-using-namespace)
  const std::optional<CodecInput> input = TakeCodec(AsBytes(data, size));
  if (!input) return 0;
  const auto& [test_case, repetitions, n, rest] = *input;
  const std::vector<std::byte> payload(rest.begin(), rest.end());  // aligned, as receivers hold it
  RequireNone(terse::testing::BrokenPromise(test_case, payload, n));

  const std::optional<std::vector<float>> decoded = Decoded(test_case, payload, n);
  {
    const kernels::ScopedKernelsForTest scalar(kernels::ScalarKernels());
    const std::optional<std::vector<float>> reference = Decoded(test_case, payload, n);
    Require(decoded.has_value() == reference.has_value(), "every target refuses the same payloads");
    if (!decoded) return 0;
    Require(terse::testing::Bits(*decoded) == terse::testing::Bits(*reference),
            "every target decodes the same bits");
  }
  RequireItsLength(test_case, payload, n);
  RequireSumAsRepeatedDecoding(test_case, payload, n);
  if (test_case.codec->kind() == Kind::kGather) RequireSupport(test_case, payload, *decoded);
  if (IsOneToOne(test_case.codec->codec())) {
    Tensor again(test_case, n, 0, false);
    again.Encode(*decoded);
    Require(again.payloads()[0] == payload, "what was decoded encodes to the same bytes");
  }
  return 0;
}
