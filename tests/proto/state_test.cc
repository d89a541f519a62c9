// SPDX-License-Identifier: Apache-2.0
//
// The file of saved state: every field comes back, the committed files are what the encoder makes, and bytes
// that nobody vouches for are refused before they are used.
#include "proto/wire/state.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/wire/checksum.h"

namespace terse::wire {
namespace {

using ::testing::HasSubstr;
using Memory = std::vector<std::byte>;

Bytes BytesOf(const std::vector<float>& values) {
  return {reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(float)};
}

StateHeader SomeHeader() {
  StateHeader header;
  header.sections = 3;
  header.rank = 1;
  header.world_size = 4;
  header.save = 7;
  header.save_id = 0x0123456789abcdef;
  header.file_bytes = 1000;
  header.step = uint64_t{1} << 40;
  return header;
}

const std::vector<float>& SomeFloats() {
  static const auto& floats = *new std::vector<float>{1.0f, -0.0f, 1e-45f, -3e38f, 0.5f};
  return floats;
}

StateTensor SomeTensor() {
  StateTensor tensor;
  tensor.id = 3;
  tensor.name = "fc1.weight";
  tensor.dtype = DType::kBFloat16;
  tensor.shape = {2, 4};
  tensor.was_compressed = true;
  tensor.elements = 7;
  tensor.mask_hash = 99;
  tensor.row.tensor = tensor.configured.tensor = 3;
  tensor.row.codec = Codec::kQuantize;
  tensor.row.exchange = Exchange::kScatterReduceAllGather;
  tensor.row.params = {.density = 0.125,
                       .index = IndexCoding::kRice,
                       .selection = SelectionRule::kSampled,
                       .values = ValueFormat::kBf16,
                       .bits = 3,
                       .block = 64,
                       .rounding = Rounding::kStochastic,
                       .span = QuantizeSpan::kMax,
                       .scale = ScaleNorm::kL1,
                       .rank = 9,
                       .error = LowRankError::kAveraged};
  tensor.row.reason = "a policy's";
  tensor.configured.error_feedback = false;
  tensor.configured.reason = "below min_elements";
  tensor.applied = 5;
  tensor.exchanges = 6;
  tensor.counters = {{.name = "m_updates", .value = 11}, {.name = "frozen", .value = 1}};
  tensor.vectors = {
      {.name = "residual", .role = MemoryRole::kOwn, .begin = 0, .values = BytesOf(SomeFloats()), .crc = 0},
      {.name = "server_error",
       .role = MemoryRole::kShard,
       .begin = 2,
       .values = BytesOf(SomeFloats()),
       .crc = 0}};
  static const Memory& state = *new Memory(13, std::byte{0xa5});
  tensor.worker_state = state;
  return tensor;
}

TEST(StateFormat, HeadersComeBack) {
  const Memory bytes = EncodeStateHeader(SomeHeader());
  ASSERT_EQ(bytes.size(), kStateHeaderBytes);
  EXPECT_EQ(std::memcmp(bytes.data(), "TERSTATE", 8), 0);
  const absl::StatusOr<StateHeader> header = ParseStateHeader(bytes);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(*header, SomeHeader());
}

TEST(StateFormat, GroupsComeBack) {
  StateGroup group;
  group.step = 1;
  group.skipped = 2;
  group.global_batch = 512;
  group.plan_version = 3;
  group.tensors = 4;
  for (const bool frozen : {false, true}) {
    group.frozen = frozen;
    group.handing_on = !frozen;
    group.warmup_steps = 5;
    group.frozen_at = 6;
    group.history = {0.25, std::numeric_limits<double>::infinity()};
    const absl::StatusOr<StateGroup> parsed = ParseStateGroup(EncodeStateGroup(group));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, group);
  }
}

TEST(StateFormat, TensorsComeBack) {
  const StateTensor tensor = SomeTensor();
  const Memory bytes = EncodeStateTensor(tensor);
  const absl::StatusOr<StateTensor> parsed = ParseStateTensor(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->name, tensor.name);
  EXPECT_EQ(parsed->dtype, tensor.dtype);
  EXPECT_EQ(parsed->shape, tensor.shape);
  EXPECT_EQ(parsed->mask_hash, tensor.mask_hash);
  EXPECT_EQ(parsed->row, tensor.row);
  EXPECT_EQ(parsed->configured, tensor.configured);
  EXPECT_EQ(parsed->counters[0].value, 11u);
  EXPECT_EQ(parsed->vectors[1].role, MemoryRole::kShard);
  EXPECT_EQ(parsed->vectors[1].begin, 2u);
  EXPECT_EQ(parsed->vectors[0].crc, Crc32c(BytesOf(SomeFloats())));
  EXPECT_EQ(parsed->worker_state, tensor.worker_state);
  EXPECT_TRUE(parsed->server_state.empty());
  EXPECT_EQ(EncodeStateTensor(*parsed), bytes);
}

// What a file with right checksums, but of someone who means harm, could claim.
TEST(StateFormat, ImpossibleTensorsAreRefused) {
  const auto refused = [](const std::function<void(StateTensor*)>& change, const std::string& words) {
    StateTensor tensor = SomeTensor();
    change(&tensor);
    const absl::StatusOr<StateTensor> parsed = ParseStateTensor(EncodeStateTensor(tensor));
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss) << words;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(words));
  };
  refused([](StateTensor* t) { t->dtype = static_cast<DType>(4); }, "dtype 4");
  refused([](StateTensor* t) { t->row.codec = static_cast<Codec>(200); }, "codec 200");
  refused([](StateTensor* t) { t->row.exchange = static_cast<Exchange>(6); }, "exchange 6");
  refused([](StateTensor* t) { t->vectors[0].role = static_cast<MemoryRole>(3); }, "role 3");
  refused([](StateTensor* t) { t->elements = 9; }, "9 elements, more than its shape");
  refused([](StateTensor* t) { t->shape = {-1}; }, "more than its shape");
  refused([](StateTensor* t) { t->shape = {int64_t{1} << 40, int64_t{1} << 40}; }, "more than its shape");
  refused([](StateTensor* t) { t->shape.assign(65, 1); }, "65 is too much for a number of dimensions");
  refused([](StateTensor* t) { t->vectors[1].begin = 4; }, "elements 4+5 of 8");
  refused([](StateTensor* t) { t->vectors[1].begin = ~uint64_t{0}; }, "of 8");
  refused([](StateTensor* t) { t->vectors[0].begin = 1; }, "is no shard and begins at 1");
  refused([](StateTensor* t) { t->vectors.resize(65, t->vectors[0]); }, "65 is too much");
  refused([](StateTensor* t) { t->counters.resize(65); }, "65 is too much");
  refused([](StateTensor* t) { t->counters[1].name = "m_updates"; }, "'m_updates' is there twice");
  refused([](StateTensor* t) { t->vectors.push_back(t->vectors[0]); }, "'residual' is there twice");
  const std::vector<float> poisoned = {1.0f, std::numeric_limits<float>::quiet_NaN()};
  refused([&](StateTensor* t) { t->vectors[0].values = BytesOf(poisoned); }, "NaN");
}

// Of a valid body each prefix, each changed byte, and noise: never more than a refusal, and no prefix passes.
TEST(StateFormat, DamagedBodiesAreRefusedOrHarmless) {
  const Memory tensor = EncodeStateTensor(SomeTensor());
  for (size_t size = 0; size < tensor.size(); ++size) {
    EXPECT_FALSE(ParseStateTensor(Bytes(tensor).first(size)).ok()) << size;
  }
  Memory longer = tensor;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(ParseStateTensor(longer).ok());
  const Memory group = EncodeStateGroup({});
  for (size_t size = 0; size < group.size(); ++size)
    EXPECT_FALSE(ParseStateGroup(Bytes(group).first(size)).ok());
  std::mt19937 random(1);
  for (int i = 0; i < 200000; ++i) {
    Memory changed = i % 2 == 0 ? tensor : group;
    for (uint32_t n = random() % 4 + 1; n > 0; --n) {
      changed[random() % changed.size()] = static_cast<std::byte>(random() % 3 == 0 ? 0xff : random());
    }
    (void)(i % 2 == 0 ? ParseStateTensor(changed).ok() : ParseStateGroup(changed).ok());
  }
}

TEST(StateFormat, EveryFlippedBitOfASectionIsFound) {
  const Memory sealed = SealStateSection(StateSection::kTensor, EncodeStateTensor(SomeTensor()));
  ASSERT_TRUE(OpenStateSection(sealed).ok());
  for (size_t bit = 0; bit < 8 * sealed.size(); ++bit) {
    Memory flipped = sealed;
    flipped[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_FALSE(OpenStateSection(flipped).ok()) << "bit " << bit;
  }
  for (size_t size = 0; size < sealed.size(); ++size) {
    EXPECT_FALSE(OpenStateSection(Bytes(sealed).first(size)).ok()) << size;
  }
}

TEST(StateFormat, SectionsMustFitIntoWhatIsLeft) {
  const Memory sealed = SealStateSection(StateSection::kGroup, Memory(100));
  EXPECT_TRUE(ParseStateSectionHeader(sealed, 104).ok());
  for (const uint64_t left : {uint64_t{0}, uint64_t{3}, uint64_t{103}}) {
    EXPECT_FALSE(ParseStateSectionHeader(sealed, left).ok()) << left;
  }
  Memory huge = sealed;
  Store(huge.data() + 8, ~uint64_t{0});
  EXPECT_FALSE(ParseStateSectionHeader(huge, 104).ok());
}

TEST(StateFormat, EveryFlippedBitOfAHeaderIsFound) {
  const Memory header = EncodeStateHeader(SomeHeader());
  for (size_t bit = 0; bit < 8 * header.size(); ++bit) {
    Memory flipped = header;
    flipped[bit / 8] ^= std::byte{1} << (bit % 8);
    const absl::StatusOr<StateHeader> parsed = ParseStateHeader(flipped);
    EXPECT_FALSE(parsed.ok()) << "bit " << bit;
    // The version stands outside the checksum's word, so that another format is called by its name.
    const bool version = bit / 8 >= 8 && bit / 8 < 12;
    EXPECT_EQ(absl::IsFailedPrecondition(parsed.status()), version) << parsed.status();
  }
  EXPECT_FALSE(ParseStateHeader(Bytes(header).first(63)).ok());
}

// The committed file: what the parser takes apart the encoder puts together again, byte by byte.
TEST(StateFormat, GoldenFilesAreWhatTheEncoderMakes) {
  for (const char* name : {"rank-0-of-2", "rank-1-of-2"}) {
    SCOPED_TRACE(name);
    std::ifstream stream(std::string(TERSE_SOURCE_DIR "/tests/golden/state/save-1/") + name + ".terse",
                         std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(stream), {}};
    Bytes left(reinterpret_cast<const std::byte*>(text.data()), text.size());
    const absl::StatusOr<StateHeader> header = ParseStateHeader(left);
    ASSERT_TRUE(header.ok()) << header.status();
    EXPECT_EQ(header->file_bytes, text.size());
    Memory again = EncodeStateHeader(*header);
    left.remove_prefix(kStateHeaderBytes);
    for (uint32_t i = 0; i < header->sections; ++i) {
      const absl::StatusOr<StateSectionHeader> head =
          ParseStateSectionHeader(left, left.size() - kStateSectionBytes);
      ASSERT_TRUE(head.ok()) << head.status();
      const Bytes section = left.first(kStateSectionBytes + head->body_bytes + kStateChecksumBytes);
      left.remove_prefix(section.size());
      const absl::StatusOr<Bytes> body = OpenStateSection(section);
      ASSERT_TRUE(body.ok()) << body.status();
      Memory encoded(body->begin(), body->end());
      if (head->section == StateSection::kGroup) {
        const absl::StatusOr<StateGroup> group = ParseStateGroup(*body);
        ASSERT_TRUE(group.ok()) << group.status();
        EXPECT_EQ(group->step, 3u);
        EXPECT_EQ(group->skipped, 1u);
        EXPECT_EQ(group->tensors, 2u);
        encoded = EncodeStateGroup(*group);
      } else if (head->section == StateSection::kTensor) {
        const absl::StatusOr<StateTensor> tensor = ParseStateTensor(*body);
        ASSERT_TRUE(tensor.ok()) << tensor.status();
        encoded = EncodeStateTensor(*tensor);
      }
      const Memory sealed = SealStateSection(head->section, encoded);
      again.insert(again.end(), sealed.begin(), sealed.end());
    }
    EXPECT_TRUE(left.empty());
    EXPECT_EQ(text.size(), again.size());
    EXPECT_EQ(std::memcmp(text.data(), again.data(), std::min(text.size(), again.size())), 0);
  }
}

}  // namespace
}  // namespace terse::wire
