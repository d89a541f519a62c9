// SPDX-License-Identifier: Apache-2.0
//
// Payloads that nobody vouches for, through Decode, DecodeSum and Support of every codec.
#include <algorithm>
#include <vector>

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/floats.h"
#include "compressors/rice.h"
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

std::vector<std::byte> RiceCoded(absl::Span<const uint32_t> positions, uint32_t parameter) {
  uint64_t bits = 0;
  uint64_t next = 0;
  for (const uint32_t position : positions) {
    bits += ((position - next) >> parameter) + 1 + parameter;
    next = uint64_t{position} + 1;
  }
  const RicePlan plan{.parameter = parameter, .bytes = (bits + 31) / 32 * 4};
  std::vector<std::byte> coded(plan.bytes);
  EncodeRice(plan, positions, coded.data());
  return coded;
}

// Layout of docs/wire_format.md. The entries as an encoder writes them that chooses coding, parameter and
// format of the payload: one spelling of each, and nothing between or behind.
void RequireOneSpelling(wire::Bytes payload, absl::Span<const uint32_t> positions,
                        const std::vector<float>& decoded) {
  if (decoded.empty()) return Require(payload.empty(), "no elements have no payload");
  const auto rice = wire::Load<uint8_t>(payload.data() + 4);
  const auto parameter = wire::Load<uint8_t>(payload.data() + 5);
  const auto format = static_cast<wire::ValueFormat>(wire::Load<uint8_t>(payload.data() + 6));
  std::vector<std::byte> again;
  const auto put = [&again](auto number) {
    again.resize(again.size() + sizeof(number));
    wire::Store(again.data() + again.size() - sizeof(number), number);
  };
  put(static_cast<uint32_t>(positions.size()));
  for (const uint8_t byte :
       {rice, uint8_t(rice != 0 ? parameter : 0), static_cast<uint8_t>(format), uint8_t{0}}) {
    put(byte);
  }
  if (rice != 0) {
    const std::vector<std::byte> coded = RiceCoded(positions, parameter);
    again.insert(again.end(), coded.begin(), coded.end());
  } else {
    for (const uint32_t position : positions) put(position);
  }
  for (const uint32_t position : positions) {
    const float value = decoded[position];
    if (format == wire::ValueFormat::kFp32) {
      put(value);
    } else {
      put(format == wire::ValueFormat::kFp16 ? kernels::ToFp16(value) : kernels::ToBf16(value));
    }
  }
  Require(wire::Bytes(again) == payload, "entries that were decoded encode to the same bytes");
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
  std::vector<uint32_t> positions(decoded.size());
  std::vector<float> values(decoded.size());
  const absl::StatusOr<size_t> entries = test_case.codec->Unpack(
      test_case.params, payload, decoded.size(), absl::MakeSpan(positions), absl::MakeSpan(values));
  Require(entries.ok() && *entries == indices.size(), "what decodes has entries");
  for (size_t i = 0; i < *entries; ++i) {
    Require(positions[i] == indices[i] && values[i] == decoded[indices[i]], "entries are what is decoded");
  }
  RequireOneSpelling(payload, indices, decoded);
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
