// SPDX-License-Identifier: Apache-2.0
//
// How the text of one configuration value becomes a checked value and back: the helpers of the table in
// config_table.cc. Parsers take the whole text or refuse it, and change `out` only when they accept.
// Their INVALID_ARGUMENT messages go on after "must be"; Settings::Set puts key and value in front.
#ifndef TERSE_PROTO_WIRE_CONFIG_VALUES_H_
#define TERSE_PROTO_WIRE_CONFIG_VALUES_H_

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "proto/wire/text.h"

namespace terse::wire {

// Finite numbers between two bounds, each of which may itself be excluded.
struct NumberRange {
  double low = 0.0;
  bool above_low = false;  // low itself is excluded
  double high = std::numeric_limits<double>::infinity();
  bool below_high = false;  // high itself is excluded
};

struct IntegerRange {
  int64_t low = 0;
  int64_t high = std::numeric_limits<int64_t>::max();
  int64_t multiple = 1;                         // of what number it must be a multiple
  std::optional<int64_t> other = std::nullopt;  // one value outside the range that is allowed too
};

// For people and for errors: "0 < x <= 1", "16 to 65536, a multiple of 16".
std::string Words(const NumberRange& range);
std::string Words(const IntegerRange& range);
std::string Words(absl::Span<const std::string_view> choices);  // "none | fp16"

absl::Status ParseNumber(std::string_view text, const NumberRange& range, double* out);
absl::Status ParseInteger(std::string_view text, const IntegerRange& range, int64_t* out);
absl::Status ParseBoolean(std::string_view text, bool* out);
absl::Status ParseChoice(std::string_view text, absl::Span<const std::string_view> choices, size_t* out);

// Printable characters without blanks, 1 to 255 of them.
absl::Status ParseWord(std::string_view text, std::string* out);
absl::Status ParsePath(std::string_view text, std::string* out);

// Lists are "[a, b]" or "a, b"; "" and "[]" are the empty list. An element may stand in quotes.
absl::Status ParseNumbers(std::string_view text, const NumberRange& range, std::vector<double>* out);
absl::Status ParsePatterns(std::string_view text, std::vector<std::string>* out);

inline constexpr std::string_view kBooleanWords = "true | false";
inline constexpr std::string_view kWordWords = "1 to 255 printable characters without blanks";
inline constexpr size_t kMostPath = 4095;
inline constexpr std::string_view kPathWords =
    "a path of at most 4095 bytes without control characters, or nothing";
inline constexpr std::string_view kPatternWords =
    "names; * stands for any characters, ? for one; no blanks, commas, brackets or quotes";

// Canonical texts, which the parsers above read back to the same value.
std::string NumberText(double value);  // the shortest decimal that reads back to the same double
std::string BooleanText(bool value);
std::string NumbersText(absl::Span<const double> values);
std::string PatternsText(absl::Span<const std::string> patterns);

// The candidate with the fewest edits (insert, delete, replace a character) from `word`; the first of
// several. A candidate also counts by its part behind the last dot, so that "density" finds
// "topk.density". `candidates` must not be empty.
std::string_view Nearest(std::string_view word, absl::Span<const std::string_view> candidates);

// `text` for a message: in double quotes, unprintable bytes escaped, cut at a length that can be read.
std::string Quoted(std::string_view text);

}  // namespace terse::wire

#endif  // TERSE_PROTO_WIRE_CONFIG_VALUES_H_
