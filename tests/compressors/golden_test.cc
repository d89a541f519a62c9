// SPDX-License-Identifier: Apache-2.0
//
// Payloads as committed in tests/golden, good and bad. They hold the wire format still: a change that
// these do not survive is a new version of it.
//
// A file is a list of records, separated by empty lines; a line that begins with # is a comment. Fields:
//   case     what it shows
//   params   key=value ... (bits, block, rounding, span, density, index, selection, values, rank,
//            scale); else the defaults
//   input    numbers to encode without error feedback; the payload must come out (optional)
//   payload  bytes in hexadecimal
//   values   what the payload decodes to, or
//   elements how many elements it claims to encode, and it must be refused
#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "compressors/registry.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compressors/codec_cases.h"

namespace terse {
namespace {

using ::terse::testing::Bits;
using ::terse::testing::Tensor;

using Record = std::map<std::string, std::string>;

std::vector<Record> ReadRecords(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.is_open()) << path;
  std::vector<Record> records(1);
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with('#')) continue;
    const size_t first = line.find_first_not_of(' ');
    if (first == std::string::npos) {
      if (!records.back().empty()) records.emplace_back();
      continue;
    }
    const size_t space = line.find(' ', first);
    const std::string key = line.substr(first, space - first);
    std::string& value = records.back()[key];
    if (space != std::string::npos) absl::StrAppend(&value, value.empty() ? "" : " ", line.substr(space + 1));
  }
  if (records.back().empty()) records.pop_back();
  return records;
}

wire::CodecParams ParamsOf(const Record& record) {
  wire::CodecParams params;
  const auto found = record.find("params");
  if (found == record.end()) return params;
  for (const auto word : absl::StrSplit(found->second, ' ', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(word, absl::MaxSplits('=', 1));
    const auto& [key, value] = pair;
    if (key == "bits")
      params.bits = static_cast<uint32_t>(std::stoul(value));
    else if (key == "block")
      params.block = static_cast<uint32_t>(std::stoul(value));
    else if (key == "density")
      params.density = std::stod(value);
    else if (key == "index")
      params.index = value == "rice" ? wire::IndexCoding::kRice : wire::IndexCoding::kU32;
    else if (key == "selection")
      params.selection = value == "sampled" ? wire::SelectionRule::kSampled : wire::SelectionRule::kExact;
    else if (key == "values")
      params.values = value == "fp16" ? wire::ValueFormat::kFp16 : wire::ValueFormat::kBf16;
    else if (key == "span")
      params.span = value == "max" ? wire::QuantizeSpan::kMax : wire::QuantizeSpan::kL2;
    else if (key == "scale")
      params.scale = value == "l1" ? wire::ScaleNorm::kL1 : wire::ScaleNorm::kL2;
    else if (key == "rank")
      params.rank = static_cast<uint32_t>(std::stoul(value));
    else
      ADD_FAILURE() << "no parameter " << key;
  }
  return params;
}

std::vector<float> NumbersOf(const std::string& text) {
  std::vector<float> numbers;
  for (const auto word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    float number = 0;
    EXPECT_TRUE(absl::SimpleAtof(word, &number)) << word;
    numbers.push_back(number);
  }
  return numbers;
}

std::vector<std::byte> BytesOf(const std::string& text) {
  std::vector<std::byte> bytes;
  std::istringstream stream(text);
  for (std::string word; stream >> word;)
    bytes.push_back(static_cast<std::byte>(std::stoi(word, nullptr, 16)));
  return bytes;
}

std::string Hex(const std::vector<std::byte>& bytes) {
  return absl::StrJoin(bytes, " ", [](std::string* out, std::byte byte) {
    absl::StrAppend(out, absl::Hex(std::to_integer<unsigned>(byte), absl::kZeroPad2));
  });
}

struct GoldenFile {
  wire::Codec codec;
  std::string name;
};

void PrintTo(const GoldenFile& file, std::ostream* out) { *out << file.name; }

class Golden : public ::testing::TestWithParam<GoldenFile> {};

TEST_P(Golden, PayloadsMeanWhatTheyMeant) {
  const Compressor& codec = *FindCompressor(GetParam().codec);
  const std::vector<Record> records =
      ReadRecords(TERSE_SOURCE_DIR "/tests/golden/" + GetParam().name + ".txt");
  bool good = false;
  bool bad = false;
  for (const Record& record : records) {
    ASSERT_TRUE(record.contains("case") && record.contains("payload"));
    SCOPED_TRACE(record.at("case"));
    const wire::CodecParams params = ParamsOf(record);
    const std::vector<std::byte> payload = BytesOf(record.at("payload"));
    if (record.contains("input")) {
      const std::vector<float> input = NumbersOf(record.at("input"));
      Tensor tensor({&codec, params, ""}, input.size(), 0, false);
      tensor.Encode(input);
      EXPECT_EQ(Hex(tensor.payloads()[0]), Hex(payload));
    }
    if (record.contains("values")) {
      good = true;
      const std::vector<float> values = NumbersOf(record.at("values"));
      std::vector<float> decoded(values.size());
      const absl::Status status =
          codec.Decode(params, payload, 1.0f, Accumulate::kAssign, absl::MakeSpan(decoded));
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_EQ(Bits(decoded), Bits(values)) << ::testing::PrintToString(decoded);
    } else {
      bad = true;
      std::vector<float> decoded(std::stoul(record.at("elements")));
      const absl::Status status =
          codec.Decode(params, payload, 1.0f, Accumulate::kAssign, absl::MakeSpan(decoded));
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    }
  }
  EXPECT_TRUE(good && bad) << "a golden file has good payloads and bad ones";
}

std::vector<GoldenFile> AllFiles() {
  return {
#define TERSE_COMPRESSOR(codec, name, function) {wire::Codec::codec, name},
#include "compressors/compressors.def"
#undef TERSE_COMPRESSOR
  };
}

INSTANTIATE_TEST_SUITE_P(AllCodecs, Golden, ::testing::ValuesIn(AllFiles()),
                         [](const auto& parameter) { return parameter.param.name; });

}  // namespace
}  // namespace terse
