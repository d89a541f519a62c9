// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/config_values.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numeric>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace terse::wire {
namespace {

constexpr size_t kMaxWord = 255;
constexpr size_t kMaxListText = 64 * 1024;

template <typename... Parts>
absl::Status MustBe(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("must be ", parts...));
}

// The number that `text` spells from its first character to its last.
template <typename T>
std::optional<T> FromText(std::string_view text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

bool Contains(const NumberRange& range, double value) {
  return std::isfinite(value) && (range.above_low ? value > range.low : value >= range.low) &&
         (range.below_high ? value < range.high : value <= range.high);
}

bool Contains(const IntegerRange& range, int64_t value) {
  if (range.other == value) return true;
  return value >= range.low && value <= range.high && value % range.multiple == 0;
}

bool IsWord(std::string_view text) {
  return !text.empty() && text.size() <= kMaxWord &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isgraph(c); });
}

bool IsPattern(std::string_view text) {
  return IsWord(text) && text.find_first_of(",[]{}\"'") == std::string_view::npos;
}

std::string_view StripBlanks(std::string_view text) {
  const absl::string_view inner = absl::StripAsciiWhitespace(View(text));
  return {inner.data(), inner.size()};
}

bool StandsBetween(std::string_view text, char first, char last) {
  return text.size() >= 2 && text.front() == first && text.back() == last;
}

std::vector<std::string_view> SplitList(std::string_view text) {
  text = StripBlanks(text);
  if (StandsBetween(text, '[', ']')) text = StripBlanks(text.substr(1, text.size() - 2));
  std::vector<std::string_view> elements;
  if (text.empty()) return elements;
  for (size_t from = 0; from <= text.size();) {
    const size_t comma = std::min(text.find(',', from), text.size());
    std::string_view element = StripBlanks(text.substr(from, comma - from));
    if (StandsBetween(element, '"', '"') || StandsBetween(element, '\'', '\'')) {
      element = element.substr(1, element.size() - 2);
    }
    elements.push_back(element);
    from = comma + 1;
  }
  return elements;
}

// Levenshtein's distance, row by row.
size_t Edits(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min(replaced, std::min(row[j], row[j + 1]) + 1);
    }
  }
  return row.back();
}

}  // namespace

std::string Words(const NumberRange& range) {
  const char* const from = range.above_low ? "<" : "<=";
  if (std::isinf(range.high)) {
    return absl::StrCat("x ", range.above_low ? ">" : ">=", " ", NumberText(range.low));
  }
  return absl::StrCat(NumberText(range.low), " ", from, " x ", range.below_high ? "<" : "<=", " ",
                      NumberText(range.high));
}

std::string Words(const IntegerRange& range) {
  std::string words = range.high == std::numeric_limits<int64_t>::max()
                          ? absl::StrCat("n >= ", range.low)
                          : absl::StrCat(range.low, " to ", range.high);
  if (range.multiple != 1) absl::StrAppend(&words, ", a multiple of ", range.multiple);
  if (range.other) absl::StrAppend(&words, ", or ", *range.other);
  return words;
}

std::string Words(absl::Span<const std::string_view> choices) {
  return absl::StrJoin(choices, " | ",
                       [](std::string* out, std::string_view choice) { out->append(choice); });
}

absl::Status ParseNumber(std::string_view text, const NumberRange& range, double* out) {
  const std::optional<double> value = FromText<double>(text);
  if (!value || !Contains(range, *value)) return MustBe("a number x, ", Words(range));
  *out = *value;
  return absl::OkStatus();
}

absl::Status ParseInteger(std::string_view text, const IntegerRange& range, int64_t* out) {
  const std::optional<int64_t> value = FromText<int64_t>(text);
  if (!value || !Contains(range, *value)) return MustBe("an integer, ", Words(range));
  *out = *value;
  return absl::OkStatus();
}

absl::Status ParseBoolean(std::string_view text, bool* out) {
  constexpr std::array<std::string_view, 4> kYes = {"true", "1", "yes", "on"};
  constexpr std::array<std::string_view, 4> kNo = {"false", "0", "no", "off"};
  const std::string lower = absl::AsciiStrToLower(View(text));
  const bool yes = std::find(kYes.begin(), kYes.end(), lower) != kYes.end();
  if (yes || std::find(kNo.begin(), kNo.end(), lower) != kNo.end()) {
    *out = yes;
    return absl::OkStatus();
  }
  return MustBe("true or false (also 1, 0, yes, no, on, off)");
}

absl::Status ParseChoice(std::string_view text, absl::Span<const std::string_view> choices, size_t* out) {
  const auto found = std::find(choices.begin(), choices.end(), text);
  if (found == choices.end()) return MustBe("one of ", Words(choices));
  *out = static_cast<size_t>(found - choices.begin());
  return absl::OkStatus();
}

absl::Status ParseWord(std::string_view text, std::string* out) {
  if (!IsWord(text)) return MustBe(View(kWordWords));
  *out = text;
  return absl::OkStatus();
}

absl::Status ParsePath(std::string_view text, std::string* out) {
  const bool control = std::any_of(text.begin(), text.end(),
                                   [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; });
  if (control || text.size() > kMostPath) return MustBe(View(kPathWords));
  *out = text;
  return absl::OkStatus();
}

absl::Status ParseNumbers(std::string_view text, const NumberRange& range, std::vector<double>* out) {
  if (text.size() > kMaxListText) return MustBe("a list of at most ", kMaxListText, " characters");
  std::vector<double> values;
  for (const std::string_view element : SplitList(text)) {
    double value = 0.0;
    if (!ParseNumber(element, range, &value).ok()) {
      return MustBe("a list of numbers, each ", Words(range), "; not so: ", Quoted(element));
    }
    values.push_back(value);
  }
  *out = std::move(values);
  return absl::OkStatus();
}

absl::Status ParsePatterns(std::string_view text, std::vector<std::string>* out) {
  if (text.size() > kMaxListText) return MustBe("a list of at most ", kMaxListText, " characters");
  std::vector<std::string> patterns;
  for (const std::string_view element : SplitList(text)) {
    if (!IsPattern(element)) {
      return MustBe("a list of ", View(kPatternWords), "; not so: ", Quoted(element));
    }
    patterns.emplace_back(element);
  }
  *out = std::move(patterns);
  return absl::OkStatus();
}

std::string NumberText(double value) {
  std::array<char, 32> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() ? std::string(text.data(), end) : absl::StrCat(value);
}

std::string BooleanText(bool value) { return value ? "true" : "false"; }

std::string NumbersText(absl::Span<const double> values) {
  const auto append = [](std::string* out, double value) { out->append(NumberText(value)); };
  return absl::StrCat("[", absl::StrJoin(values, ", ", append), "]");
}

std::string PatternsText(absl::Span<const std::string> patterns) {
  return absl::StrCat("[", absl::StrJoin(patterns, ", "), "]");
}

std::string_view Nearest(std::string_view word, absl::Span<const std::string_view> candidates) {
  constexpr size_t kLongest = 64;  // longer than any key: what is behind it cannot make a match
  word = word.substr(0, kLongest);
  std::string_view best = candidates.front();
  size_t fewest = std::numeric_limits<size_t>::max();
  for (const std::string_view candidate : candidates) {
    const std::string_view last = candidate.substr(candidate.rfind('.') + 1);
    const size_t edits = std::min(Edits(word, candidate), Edits(word, last) + 1);
    if (edits < fewest) {
      fewest = edits;
      best = candidate;
    }
  }
  return best;
}

std::string Quoted(std::string_view text) {
  constexpr size_t kLongest = 120;
  const bool cut = text.size() > kLongest;
  return absl::StrCat("\"", absl::CHexEscape(View(text.substr(0, kLongest))), cut ? "\"..." : "\"");
}

}  // namespace terse::wire
