// SPDX-License-Identifier: Apache-2.0
//
// The contract of compressor.h, held against every row of compressors.def: a new codec is tested here
// without a line of its own.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "compressors/kernels/dispatch.h"
#include "compressors/memory/large_vector.h"
#include "compressors/registry.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compressors/codec_cases.h"

namespace terse {
namespace {

using ::terse::testing::AllCases;
using ::terse::testing::AllVectors;
using ::terse::testing::Bits;
using ::terse::testing::BrokenPromise;
using ::terse::testing::CodecCase;
using ::terse::testing::Compensated;
using ::terse::testing::GuardedBytes;
using ::terse::testing::NamedVector;
using ::terse::testing::Normal;
using ::terse::testing::NotConserved;
using ::terse::testing::Tensor;

class Conformance : public ::testing::TestWithParam<CodecCase> {
 protected:
  const Compressor& codec() const { return *GetParam().codec; }
  const wire::CodecParams& params() const { return GetParam().params; }
  bool linear() const { return codec().kind() == Kind::kLinear; }
};

TEST_P(Conformance, AcceptsItsParameters) { EXPECT_TRUE(codec().CheckParams(params()).ok()); }

TEST_P(Conformance, ConservesEveryElementAtEveryStep) {
  for (const NamedVector& vector : AllVectors()) {
    SCOPED_TRACE(vector.name);
    const size_t n = vector.values.size();
    Tensor tensor(GetParam(), n);
    for (uint64_t step = 0; step < 6; ++step) {
      SCOPED_TRACE(absl::StrCat("step ", step));
      // Every other step sends a gradient of zero, so that old residuals come out.
      const std::vector<float> input = step % 2 == 0 ? vector.values : std::vector<float>(n);
      const std::vector<float> c = Compensated(input, tensor.residual());
      RandomKey random;
      random.step = step;
      const EncodeResult result = tensor.Encode(input, random);
      EXPECT_EQ(result.nonfinite,
                std::any_of(input.begin(), input.end(), [](float x) { return !std::isfinite(x); }));
      ASSERT_EQ(NotConserved(GetParam(), c, tensor.Decoded(), tensor.residual()), std::nullopt);
    }
  }
}

TEST_P(Conformance, SendsTheSameWithoutErrorFeedback) {
  for (const NamedVector& vector : AllVectors()) {
    SCOPED_TRACE(vector.name);
    Tensor with(GetParam(), vector.values.size());
    Tensor without(GetParam(), vector.values.size(), 0, false);
    const EncodeResult expected = with.Encode(vector.values);
    const EncodeResult result = without.Encode(vector.values);
    EXPECT_EQ(result.nonfinite, expected.nonfinite);
    // -0 + 0 is 0: a verbatim codec tells them apart, arithmetic does not.
    EXPECT_EQ(without.Decoded(), with.Decoded());
  }
}

TEST_P(Conformance, DecodesTheSameFromShards) {
  if (codec().kind() != Kind::kSplit) GTEST_SKIP() << "gather codecs have one shard";
  for (const NamedVector& vector : AllVectors()) {
    SCOPED_TRACE(vector.name);
    const size_t n = vector.values.size();
    RandomKey random;
    random.seed = 3;
    Tensor whole(GetParam(), n);
    Tensor sharded(GetParam(), n, n / 3 + 1);
    for (int step = 0; step < 2; ++step) {
      whole.Encode(vector.values, random);
      sharded.Encode(vector.values, random);
      EXPECT_EQ(Bits(sharded.Decoded()), Bits(whole.Decoded()));
      EXPECT_EQ(Bits(sharded.residual()), Bits(whole.residual()));
    }
  }
}

// Parts in any order, in several calls, and completed: what Encode makes of the vector in one go.
TEST_P(Conformance, EncodesInPartsWhatItEncodesAtOnce) {
  if (codec().kind() != Kind::kSplit) GTEST_SKIP() << "only split codecs encode in parts";
  for (const NamedVector& vector : AllVectors()) {
    SCOPED_TRACE(vector.name);
    const size_t n = vector.values.size();
    Tensor whole(GetParam(), n, n / 5 + 1);
    std::vector<float> residual(n);
    std::vector<std::byte> state(codec().StateBytes(params(), n));
    EncodeArgs args;
    args.input = vector.values;
    args.residual = absl::MakeSpan(residual);
    args.state = absl::MakeSpan(state);
    for (int step = 0; step < 3; ++step) {
      whole.Encode(vector.values);
      std::vector<Shard> parts = whole.shards();
      std::vector<std::vector<std::byte>> payloads;
      for (const std::vector<std::byte>& payload : whole.payloads()) payloads.emplace_back(payload.size());
      for (size_t i = parts.size(); i-- > 0;) {
        parts[i].out = absl::MakeSpan(payloads[i]);
        ASSERT_TRUE(codec().EncodeParts(params(), args, absl::MakeSpan(parts).subspan(i, 1)).ok());
      }
      std::vector<std::byte> closing(codec().ClosingBytes(params()));
      ASSERT_LE(closing.size(), kMostClosingBytes);
      codec().Close(params(), args, absl::MakeSpan(closing));
      for (std::vector<std::byte>& payload : payloads) {
        codec().Complete(params(), closing, absl::MakeSpan(payload));
      }
      EXPECT_EQ(payloads, whole.payloads());
    }
    codec().Materialize(params(), args.state, args.residual);
    EXPECT_EQ(Bits(residual), Bits(whole.residual()));
  }
}

// The old residual in one place and the new one in another, which change places from step to step.
TEST_P(Conformance, LeavesTheResidualBeforeWhereItIs) {
  if (!codec().ReadsBefore(params())) GTEST_SKIP() << "it is replaced in place";
  for (const NamedVector& vector : AllVectors()) {
    SCOPED_TRACE(vector.name);
    const size_t n = vector.values.size();
    Tensor in_place(GetParam(), n);
    FloatVector residual(n);
    FloatVector before(n);
    std::vector<std::byte> state(codec().StateBytes(params(), n));
    GuardedBytes scratch(codec().ScratchBytes(params(), n));
    EncodeArgs args;
    args.input = vector.values;
    args.state = absl::MakeSpan(state);
    args.scratch = scratch.bytes();
    for (int step = 0; step < 4; ++step) {
      const EncodeResult expected = in_place.Encode(vector.values);
      const FloatVector kept = residual;
      std::swap(residual, before);
      std::fill(residual.begin(), residual.end(), 7.0f);
      args.residual = absl::MakeSpan(residual);
      args.before = before;
      std::vector<std::byte> payload(codec().MaxPayloadBytes(params(), n));
      Shard shard;
      shard.end = n;
      shard.out = absl::MakeSpan(payload);
      const auto result = codec().Encode(params(), args, {&shard, 1});
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(result->nonfinite, expected.nonfinite);
      payload.resize(shard.size);
      EXPECT_EQ(payload, in_place.payloads().front());
      EXPECT_EQ(before, kept);
    }
    codec().Materialize(params(), args.state, args.residual);
    EXPECT_EQ(Bits({residual.begin(), residual.end()}), Bits(in_place.residual()));
  }
}

// A residual that is never made plain between the steps, and one that always is.
TEST_P(Conformance, DefersResidualsWithoutADifference) {
  for (const NamedVector& vector : AllVectors()) {
    SCOPED_TRACE(vector.name);
    Tensor deferred(GetParam(), vector.values.size());
    Tensor plain(GetParam(), vector.values.size());
    for (int step = 0; step < 5; ++step) {
      deferred.Encode(vector.values);
      plain.Encode(vector.values);
      plain.residual();
      EXPECT_EQ(deferred.payloads(), plain.payloads());
    }
    EXPECT_EQ(Bits(deferred.residual()), Bits(plain.residual()));
  }
}

TEST_P(Conformance, EncodesEmptyShardsAsNothing) {
  if (codec().kind() != Kind::kSplit) GTEST_SKIP() << "gather codecs have one shard";
  const std::vector<float> input = Normal(codec().BlockElements(params()), 1);
  GuardedBytes out(codec().MaxPayloadBytes(params(), input.size()));
  std::vector<Shard> shards(3);
  shards[1].end = input.size();
  shards[1].out = out.bytes();
  shards[2].begin = shards[2].end = input.size();
  GuardedBytes scratch(codec().ScratchBytes(params(), input.size()));
  std::vector<std::byte> state(codec().StateBytes(params(), input.size()));
  EncodeArgs args;
  args.input = input;
  args.scratch = scratch.bytes();
  args.state = absl::MakeSpan(state);
  ASSERT_TRUE(codec().Encode(params(), args, absl::MakeSpan(shards)).ok());
  EXPECT_EQ(shards[0].size, 0u);
  EXPECT_EQ(shards[1].size, out.bytes().size());
  EXPECT_EQ(shards[2].size, 0u);
}

TEST_P(Conformance, IsDeterministic) {
  for (const NamedVector& vector : AllVectors()) {
    SCOPED_TRACE(vector.name);
    RandomKey random;
    random.seed = 11;
    random.rank = 2;
    Tensor first(GetParam(), vector.values.size());
    Tensor second(GetParam(), vector.values.size());
    for (random.step = 0; random.step < 3; ++random.step) {
      first.Encode(vector.values, random);
      second.Encode(vector.values, random);
      EXPECT_EQ(first.payloads(), second.payloads());
      EXPECT_EQ(Bits(first.residual()), Bits(second.residual()));
    }
  }
}

// Payloads, residuals and sums of every instruction set are those of the scalar reference, to the bit.
TEST_P(Conformance, IsTheSameOnEveryTarget) {
  for (const NamedVector& vector : AllVectors()) {
    SCOPED_TRACE(vector.name);
    const size_t n = vector.values.size();
    RandomKey random;
    random.seed = 5;
    struct Outcome {
      std::vector<std::vector<std::byte>> payloads;
      std::vector<uint32_t> residual;
      std::vector<uint32_t> sum;
      bool nonfinite = false;
      bool operator==(const Outcome&) const = default;
    };
    const auto run = [&](const kernels::Kernels& target, bool error_feedback) {
      const kernels::ScopedKernelsForTest scoped(target);
      Outcome outcome;
      Tensor tensor(GetParam(), n, n / 2 + 5, error_feedback);
      if (codec().kind() == Kind::kGather) tensor = Tensor(GetParam(), n, 0, error_feedback);
      for (int step = 0; step < 2; ++step)
        outcome.nonfinite |= tensor.Encode(vector.values, random).nonfinite;
      outcome.payloads = tensor.payloads();
      outcome.residual = Bits(tensor.residual());
      outcome.sum = Bits(tensor.Decoded());
      const wire::Bytes first = outcome.payloads[0];
      std::vector<float> sum(tensor.shards()[0].end);
      EXPECT_TRUE(codec().DecodeSum(params(), {first, first, first}, 0.7f, absl::MakeSpan(sum)).ok());
      EXPECT_TRUE(codec().Decode(params(), first, -3.0f, Accumulate::kAdd, absl::MakeSpan(sum)).ok());
      const std::vector<uint32_t> bits = Bits(sum);
      outcome.sum.insert(outcome.sum.end(), bits.begin(), bits.end());
      return outcome;
    };
    for (const bool error_feedback : {true, false}) {
      const Outcome expected = run(kernels::ScalarKernels(), error_feedback);
      for (const kernels::Kernels* target : kernels::AvailableKernels()) {
        EXPECT_TRUE(run(*target, error_feedback) == expected)
            << target->name << (error_feedback ? " with" : " without") << " error feedback";
      }
    }
  }
}

TEST_P(Conformance, AddsUpAsRepeatedDecoding) {
  for (const size_t n : {1, 15, 16, 513, 2050}) {
    for (const size_t peers : {0, 1, 2, 3, 17, 35}) {
      SCOPED_TRACE(absl::StrCat(peers, " peers of ", n));
      std::vector<std::vector<std::byte>> payloads;
      for (size_t p = 0; p < peers; ++p) {
        Tensor tensor(GetParam(), n);
        tensor.Encode(Normal(n, static_cast<uint32_t>(n * 100 + p)));
        payloads.push_back(tensor.payloads()[0]);
      }
      const std::vector<wire::Bytes> views(payloads.begin(), payloads.end());
      for (const float weight : {1.0f, 0.3f, -2.0f}) {
        std::vector<float> expected(n, 0.0f);
        for (const wire::Bytes payload : views) {
          ASSERT_TRUE(
              codec().Decode(params(), payload, weight, Accumulate::kAdd, absl::MakeSpan(expected)).ok());
        }
        std::vector<float> sum(n, std::numeric_limits<float>::quiet_NaN());
        ASSERT_TRUE(codec().DecodeSum(params(), views, weight, absl::MakeSpan(sum)).ok());
        EXPECT_EQ(Bits(sum), Bits(expected));
      }
    }
  }
}

TEST_P(Conformance, WeighsWhatItDecodes) {
  const size_t n = 1030;
  Tensor tensor(GetParam(), n);
  tensor.Encode(Normal(n, 5));
  const std::vector<float> decoded = tensor.Decoded();
  std::vector<float> assigned(n, 9.0f);
  std::vector<float> added = Normal(n, 6);
  std::vector<float> expected_assigned(n);
  std::vector<float> expected_added = added;
  for (size_t i = 0; i < n; ++i) {
    expected_assigned[i] = 0.3f * decoded[i];
    expected_added[i] += expected_assigned[i];
  }
  const wire::Bytes payload = tensor.payloads()[0];
  ASSERT_TRUE(codec().Decode(params(), payload, 0.3f, Accumulate::kAssign, absl::MakeSpan(assigned)).ok());
  for (const size_t shift : {0, 1}) {
    FloatVector around(n + shift, 7.0f);
    ASSERT_TRUE(
        codec()
            .Decode(params(), payload, 0.3f, Accumulate::kAssignAround, absl::MakeSpan(around).subspan(shift))
            .ok());
    EXPECT_EQ(Bits(std::vector<float>(around.begin() + static_cast<ptrdiff_t>(shift), around.end())),
              Bits(assigned));
  }
  ASSERT_TRUE(codec().Decode(params(), payload, 0.3f, Accumulate::kAdd, absl::MakeSpan(added)).ok());
  EXPECT_EQ(Bits(assigned), Bits(expected_assigned));
  EXPECT_EQ(Bits(added), Bits(expected_added));
}

TEST_P(Conformance, NeedsNoAlignment) {
  if (linear()) GTEST_SKIP() << "linear codecs have rounds: powersgd_test.cc";
  const size_t n = 1100;
  const std::vector<float> input = Normal(n + 1, 12);
  Tensor tensor(GetParam(), n);
  tensor.Encode({input.begin() + 1, input.end()});
  const std::vector<std::byte>& expected = tensor.payloads()[0];

  // Floats at 4 bytes, payloads at 1, from a 64-byte boundary.
  GuardedBytes scratch(codec().ScratchBytes(params(), n));
  std::vector<std::byte> state(codec().StateBytes(params(), n));
  GuardedBytes payload(codec().MaxPayloadBytes(params(), n) + 1);
  GuardedBytes floats((2 * n + 1) * sizeof(float));
  const absl::Span<float> memory(reinterpret_cast<float*>(floats.bytes().data()), 2 * n + 1);
  std::fill(memory.begin(), memory.end(), 0.0f);
  Shard shard;
  shard.end = n;
  shard.out = payload.bytes().subspan(1);
  EncodeArgs args;
  args.input = absl::MakeConstSpan(input).subspan(1);
  args.residual = memory.subspan(1, n);
  args.state = absl::MakeSpan(state);
  args.scratch = scratch.bytes();
  args.state = absl::MakeSpan(state);
  ASSERT_TRUE(codec().Encode(params(), args, {&shard, 1}).ok());
  ASSERT_EQ(std::vector<std::byte>(shard.out.begin(), shard.out.begin() + shard.size), expected);
  codec().Materialize(params(), args.state, args.residual);
  EXPECT_EQ(Bits({args.residual.begin(), args.residual.end()}), Bits(tensor.residual()));

  const absl::Span<float> out = memory.subspan(n + 1);
  ASSERT_TRUE(
      codec().Decode(params(), shard.out.subspan(0, shard.size), 1.0f, Accumulate::kAssign, out).ok());
  EXPECT_EQ(Bits({out.begin(), out.end()}), Bits(tensor.Decoded()));
  EXPECT_TRUE(payload.Intact() && floats.Intact());
}

TEST_P(Conformance, HasASupportIfItGathers) {
  const size_t n = 5000;
  Tensor tensor(GetParam(), n);
  tensor.Encode(Normal(n, 8));
  std::vector<uint32_t> indices(n);
  const absl::StatusOr<size_t> count =
      codec().Support(params(), tensor.payloads()[0], n, absl::MakeSpan(indices));
  if (codec().kind() != Kind::kGather) {
    EXPECT_EQ(count.status().code(), absl::StatusCode::kUnimplemented);
    return;
  }
  ASSERT_TRUE(count.ok()) << count.status();
  indices.resize(*count);
  std::vector<uint32_t> expected;
  const std::vector<float> decoded = tensor.Decoded();
  for (uint32_t i = 0; i < n; ++i) {
    if (decoded[i] != 0.0f) expected.push_back(i);
  }
  EXPECT_EQ(indices, expected);
}

TEST_P(Conformance, RefusesArgumentsThatDoNotFit) {
  if (linear()) GTEST_SKIP() << "linear codecs have rounds: powersgd_test.cc";
  const std::vector<float> input = Normal(64, 1);
  std::vector<float> residual(63);
  GuardedBytes out(codec().MaxPayloadBytes(params(), input.size()));
  GuardedBytes scratch(codec().ScratchBytes(params(), input.size()));
  std::vector<std::byte> state(codec().StateBytes(params(), input.size()));
  Shard shard;
  shard.end = input.size();
  shard.out = out.bytes();
  EncodeArgs args;
  args.input = input;
  args.state = absl::MakeSpan(state);
  args.scratch = scratch.bytes();
  args.state = absl::MakeSpan(state);

  const auto encode = [&](const EncodeArgs& with, Shard with_shard) {
    return codec().Encode(params(), with, {&with_shard, 1}).status().code();
  };
  ASSERT_EQ(encode(args, shard), absl::StatusCode::kOk);
  EncodeArgs bad = args;
  bad.residual = absl::MakeSpan(residual);
  EXPECT_EQ(encode(bad, shard), absl::StatusCode::kInvalidArgument);
  std::vector<float> whole(64);
  bad.residual = absl::MakeSpan(whole);
  bad.before = residual;
  EXPECT_EQ(encode(bad, shard), absl::StatusCode::kInvalidArgument);
  bad.before = input;
  EXPECT_EQ(encode(bad, shard),
            codec().ReadsBefore(params()) ? absl::StatusCode::kOk : absl::StatusCode::kInvalidArgument);
  Shard bad_shard = shard;
  bad_shard.end = 63;
  EXPECT_EQ(encode(args, bad_shard), absl::StatusCode::kInvalidArgument);
  bad_shard = shard;
  bad_shard.out.remove_suffix(1);
  EXPECT_EQ(encode(args, bad_shard), absl::StatusCode::kInvalidArgument);
  if (!args.scratch.empty()) {
    bad = args;
    bad.scratch.remove_suffix(1);
    EXPECT_EQ(encode(bad, shard), absl::StatusCode::kInvalidArgument);
  }
}

TEST_P(Conformance, SurvivesHostileBytes) {
  std::mt19937 generator(1234);
  const auto random = [&generator](size_t bound) { return static_cast<size_t>(generator() % bound); };
  for (const size_t n : {0, 1, 17, 1000, 5000}) {
    SCOPED_TRACE(n);
    Tensor tensor(GetParam(), n);
    tensor.Encode(Normal(n, 3));
    const std::vector<std::byte> good = tensor.payloads()[0];
    for (int round = 0; round < 60; ++round) {
      std::vector<std::byte> bad = good;
      switch (round % 4) {
        case 0:  // cut off
          bad.resize(random(good.size() + 1));
          break;
        case 1:  // longer
          bad.resize(good.size() + 1 + random(9));
          break;
        case 2:  // some bytes changed
          for (size_t i = 0, changes = bad.empty() ? 0 : 1 + random(8); i < changes; ++i) {
            bad[random(bad.size())] = static_cast<std::byte>(generator());
          }
          break;
        case 3:  // nothing but noise behind a header that may be right
          for (size_t i = random(2) * 8; i < bad.size(); ++i) bad[i] = static_cast<std::byte>(generator());
          break;
      }
      ASSERT_EQ(BrokenPromise(GetParam(), bad, n), std::nullopt);
    }
    if (good.empty()) continue;
    // Lengths that are wrong are always seen.
    const wire::Bytes view(good);
    std::vector<float> out(n);
    EXPECT_EQ(
        codec()
            .Decode(params(), view.subspan(0, view.size() - 1), 1.0f, Accumulate::kAdd, absl::MakeSpan(out))
            .code(),
        absl::StatusCode::kDataLoss);
    EXPECT_EQ(codec().DecodeSum(params(), {view, view.subspan(0, 0)}, 1.0f, absl::MakeSpan(out)).code(),
              absl::StatusCode::kDataLoss);
  }
}

INSTANTIATE_TEST_SUITE_P(AllCodecs, Conformance, ::testing::ValuesIn(AllCases()),
                         [](const auto& parameter) { return parameter.param.name; });

TEST(Registry, NumbersAndNamesAreThoseOfTheWire) {
  std::set<wire::Codec> seen;
  for (const Compressor* codec : AllCompressors()) {
    EXPECT_EQ(FindCompressor(codec->codec()), codec);
    EXPECT_TRUE(seen.insert(codec->codec()).second);
  }
#define TERSE_COMPRESSOR(number, name, function)          \
  EXPECT_EQ(wire::Name(wire::Codec::number), name);       \
  EXPECT_EQ(wire::ParseCodec(name), wire::Codec::number); \
  EXPECT_EQ(FindCompressor(wire::Codec::number)->codec(), wire::Codec::number);
#include "compressors/compressors.def"
#undef TERSE_COMPRESSOR
  EXPECT_EQ(FindCompressor(static_cast<wire::Codec>(200)), nullptr);
}

}  // namespace
}  // namespace terse
