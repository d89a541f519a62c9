// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/policy/setting.h"

#include <charconv>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "proto/wire/text.h"

namespace terse::policy {
namespace {

template <typename Number>
std::string Shortest(Number number) {
  char text[32];
  const std::to_chars_result end = std::to_chars(text, text + sizeof text, number);
  return {text, end.ptr};
}

// The key that holds the number of a codec's setting; empty: it has none.
std::string_view KeyOf(wire::Codec codec) {
  switch (codec) {
    case wire::Codec::kQuantize:
      return "quantize.bits";
    case wire::Codec::kTopK:
      return "topk.density";
    case wire::Codec::kPowerSgd:
      return "powersgd.rank";
    default:
      return {};
  }
}

}  // namespace

std::string SettingWord(const wire::PlanRow& row) {
  const std::string name(wire::Name(row.codec));
  switch (row.codec) {
    case wire::Codec::kQuantize:
      return absl::StrCat(name, ":", row.params.bits);
    case wire::Codec::kTopK:
      return absl::StrCat(name, ":", Shortest(row.params.density));
    case wire::Codec::kPowerSgd:
      return absl::StrCat(name, ":", row.params.rank);
    default:
      return name;
  }
}

absl::StatusOr<wire::PlanRow> RowOf(const wire::Config& config, int world_size, const TensorInfo& tensor,
                                    std::string_view word) {
  const size_t colon = word.find(':');
  const std::string_view name = word.substr(0, colon);
  const std::optional<wire::Codec> codec = wire::ParseCodec(name);
  const auto refuse = [&](auto... why) {
    return absl::InvalidArgumentError(absl::StrCat("'", wire::View(word), "': ", why...));
  };
  if (!codec.has_value()) {
    return refuse("no setting begins with '", wire::View(name),
                  "'; none, fp16, bf16, onebit, quantize:BITS, topk:DENSITY and powersgd:RANK are");
  }
  const std::string_view key = KeyOf(*codec);
  if (colon != std::string_view::npos && key.empty()) return refuse(wire::View(name), " has no number");
  if (*codec == wire::Codec::kNone) return DenseRow(config, tensor.id, "dense was asked for");
  wire::Config asked = WithCompressor(config, *codec);
  if (colon != std::string_view::npos) {
    if (absl::Status status = wire::FindConfigKey(key)->set(word.substr(colon + 1), &asked); !status.ok())
      return refuse(status.message());
  }
  wire::PlanRow row = StaticRow(asked, world_size, tensor);
  if (config.method != wire::Method::kAllreduce) {
    row = StaticRow(config, world_size, tensor);
    if (SettingWord(row) == word) return row;
    return refuse("method ", wire::View(wire::Name(config.method)), " has one setting of a tensor, ",
                  SettingWord(row), ", beside none");
  }
  if (row.codec != *codec) {
    return refuse("tensor '", tensor.name, "' stays dense: ", row.reason);
  }
  if (row.codec == wire::Codec::kQuantize && row.error_feedback && wire::QuantizeErrorGain(row.params) > 1.0)
    return refuse(
        "so few bits may leave behind more than they encode, and error feedback would let that grow");
  return row;
}

std::string SettingText(const wire::PlanRow& row) {
  const absl::string_view name = wire::View(wire::Name(row.codec));
  switch (row.codec) {
    case wire::Codec::kNone:
      return "dense";
    case wire::Codec::kQuantize:
      return absl::StrCat(name, ", ", row.params.bits, " bits");
    case wire::Codec::kTopK:
      return absl::StrCat(name, ", density ", row.params.density);
    case wire::Codec::kPowerSgd:
      return absl::StrCat(name, ", rank ", row.params.rank);
    default:
      return std::string(name);
  }
}

wire::Config WithCompressor(const wire::Config& config, wire::Codec codec) {
  wire::Config other = config;
  other.compressor = codec;
  return other;
}

}  // namespace terse::policy
