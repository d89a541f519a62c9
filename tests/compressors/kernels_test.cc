// SPDX-License-Identifier: Apache-2.0
//
// The kernels by themselves: what the codecs' tests do not reach (plain vectors, unaligned memory) and
// the choice among them.
#include "compressors/kernels/kernels.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <string>

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/random.h"
#include "compressors/kernels/vector.h"
#include "compressors/memory/large_vector.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compressors/codec_cases.h"

namespace terse::kernels {
namespace {

using ::terse::testing::AllVectors;
using ::terse::testing::Bits;
using ::terse::testing::NamedVector;
using ::terse::testing::Normal;

TEST(Dispatch, OffersTheReferenceFirstAndEachTargetOnce) {
  const absl::Span<const Kernels* const> all = AvailableKernels();
  ASSERT_FALSE(all.empty());
  EXPECT_EQ(all[0], &ScalarKernels());
  std::set<std::string> names;
  for (const Kernels* kernels : all) EXPECT_TRUE(names.insert(kernels->name).second) << kernels->name;
#if defined(__x86_64__)
  EXPECT_TRUE(names.contains("sse4") || !__builtin_cpu_supports("sse4.2"));
  EXPECT_TRUE(names.contains("avx2") || !__builtin_cpu_supports("avx2"));
#endif
}

// The environment is read once in a process, so each of these runs in one of its own.
class Environment : public ::testing::Test {
 protected:
  Environment() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }

  // Ends the process: 0 when the active table has that name and the check says ok, else 1.
  static void ExitWith(const char* value, const std::string& name, bool ok) {
    setenv("TERSE_SIMD", value, 1);
    const absl::Status status = CheckSimdEnvironment();
    std::fprintf(stderr, "%s", status.ToString().c_str());
    std::exit(ActiveKernels().name == name && status.ok() == ok ? 0 : 1);
  }
};

TEST_F(Environment, NamesATarget) {
  for (const Kernels* kernels : AvailableKernels()) {
    EXPECT_EXIT(ExitWith(kernels->name, kernels->name, true), ::testing::ExitedWithCode(0), "OK");
  }
}

TEST_F(Environment, MindsNoCase) {
  EXPECT_EXIT(ExitWith("Scalar", "scalar", true), ::testing::ExitedWithCode(0), "OK");
}

TEST_F(Environment, EmptyMeansTheBest) {
  EXPECT_EXIT(ExitWith("", AvailableKernels().back()->name, true), ::testing::ExitedWithCode(0), "OK");
}

TEST_F(Environment, UnknownNameIsAnErrorThatSaysWhatIsPossible) {
  EXPECT_EXIT(ExitWith("avx1024", AvailableKernels().back()->name, false), ::testing::ExitedWithCode(0),
              "TERSE_SIMD is \"avx1024\"; this processor runs scalar");
}

// Copies of a vector at every offset from a 64-byte boundary that floats can have.
TEST(Kernels, PlainVectorsAreThoseOfTheReferenceAtAnyAlignment) {
  for (const Kernels* target : AvailableKernels()) {
    const ScopedKernelsForTest scoped(*target);
    for (const NamedVector& vector : AllVectors()) {
      for (const size_t offset : {0, 1, 3, 15}) {
        SCOPED_TRACE(std::string(target->name) + " " + vector.name);
        const size_t n = vector.values.size();
        const std::vector<float> other = Normal(n, 42);
        std::vector<float> padded(n + offset, 7.0f);
        const absl::Span<float> values = absl::MakeSpan(padded).subspan(offset);
        const auto reset = [&] { std::copy(vector.values.begin(), vector.values.end(), values.begin()); };
        const auto result = [&] { return Bits({values.begin(), values.end()}); };

        reset();
        EXPECT_EQ(AllFinite(values), ScalarKernels().all_finite(values.data(), n));
        ScaleInPlace(0.3f, values);
        std::vector<float> expected = vector.values;
        ScalarKernels().scale(0.3f, expected.data(), n);
        EXPECT_EQ(result(), Bits(expected));

        reset();
        AddScaled(other, -1.7f, values);
        expected = vector.values;
        ScalarKernels().add_scaled(other.data(), -1.7f, expected.data(), n);
        EXPECT_EQ(result(), Bits(expected));

        reset();
        std::vector<float> residual = other;
        const bool nonfinite = AddFinite(values, absl::MakeSpan(residual));
        expected = other;
        EXPECT_EQ(nonfinite, ScalarKernels().compensate(vector.values.data(), expected.data(), n));
        EXPECT_EQ(nonfinite, !AllFinite(values));
        EXPECT_EQ(Bits(residual), Bits(expected));
        EXPECT_TRUE(AllFinite(residual));
      }
    }
  }
}

TEST(Kernels, OneBitSumHasSixteenLanesAndAFixedTree) {
  // 2^60 in one lane swallows ones added to the same lane, and no others.
  std::vector<float> values(64, 1.0f);
  values[5] = 0x1p60f;
  double expected_lanes[16];
  for (size_t l = 0; l < 16; ++l) expected_lanes[l] = 4.0;
  expected_lanes[5] = 0x1p60;
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t l = 0; l < half; ++l) expected_lanes[l] += expected_lanes[l + half];
  }
  for (const Kernels* target : AvailableKernels()) {
    EXPECT_EQ(target->onebit_sum(wire::ScaleNorm::kL1, values.data(), nullptr, values.size()).value,
              expected_lanes[0])
        << target->name;
  }
}

// Kernels look at several vectors at once for what needs care, so each of these stands among ordinary
// elements.
TEST(Kernels, OneSpecialElementAmongOthersIsThatOfTheReference) {
  constexpr size_t kElements = 80;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float specials[] = {
      kInfinity,  -kInfinity, std::nanf(""), -std::nanf(""),  FLT_MAX,     -FLT_MAX, 65503.99f, 65504.0f,
      65519.996f, 65520.0f,   -65520.0f,     0x1.fefffep127f, 0x1.ffp127f, -0.0f,    0x1p-149f, -0x1p-130f};
  const std::vector<float> before = Normal(kElements, 3);
  for (const Kernels* target : AvailableKernels()) {
    for (const float special : specials) {
      for (size_t at = 0; at < 3 * 16; at += 5) {
        SCOPED_TRACE(std::string(target->name) + " " + std::to_string(special));
        std::vector<float> input = Normal(kElements, 4);
        std::vector<float> start = before;
        input[at] = special;
        start[at] = std::isnan(special) ? -0.0f : std::clamp(special, -FLT_MAX, FLT_MAX);
        for (const float deferred : {0.0f, 0.75f, FLT_MAX}) {
          for (const wire::ScaleNorm norm : {wire::ScaleNorm::kL1, wire::ScaleNorm::kL2}) {
            std::vector<float> residual = start;
            std::vector<float> expected = start;
            std::array<std::byte, kElements / 8> bits = {};
            std::array<std::byte, kElements / 8> expected_bits = {};
            const Sum sum = target->onebit_defer(norm, deferred, input.data(), residual.data(),
                                                 residual.data(), kElements, bits.data());
            const Sum expected_sum =
                ScalarKernels().onebit_defer(norm, deferred, input.data(), expected.data(), expected.data(),
                                             kElements, expected_bits.data());
            EXPECT_EQ(std::bit_cast<uint64_t>(sum.value), std::bit_cast<uint64_t>(expected_sum.value));
            EXPECT_EQ(sum.nonfinite, expected_sum.nonfinite);
            EXPECT_EQ(bits, expected_bits);
            EXPECT_EQ(Bits(residual), Bits(expected));
          }
        }
        for (const ElementFormat format :
             {ElementFormat::kFp32, ElementFormat::kFp16, ElementFormat::kBf16}) {
          std::array<std::byte, kElements* 4> out = {};
          std::array<std::byte, kElements* 4> expected = {};
          EXPECT_EQ(
              target->encode_elements(format, input.data(), nullptr, kElements, out.data()),
              ScalarKernels().encode_elements(format, input.data(), nullptr, kElements, expected.data()));
          EXPECT_EQ(out, expected);
        }
      }
    }
  }
}

// Outputs beyond the caches are written around them; the bytes are the same, and none is written behind them.
TEST(Kernels, ElementsOfLargeVectorsAreThoseOfSmallOnes) {
  constexpr size_t kElements = (size_t{17} << 20) + 21;
  constexpr size_t kPiece = size_t{1} << 20;
  std::vector<float> input(kElements);
  for (size_t i = 0; i < kElements; ++i) input[i] = static_cast<float>(i % 9973) * 0.37f - 1800.0f;
  input[kElements / 2] = std::numeric_limits<float>::infinity();
  FloatVector memory(kElements / 2 + 64);
  auto* const out = reinterpret_cast<std::byte*>(memory.data());
  std::vector<std::byte> expected(kElements * 2);
  for (const ElementFormat format : {ElementFormat::kFp16, ElementFormat::kBf16}) {
    for (size_t i = 0; i < kElements; i += kPiece) {
      ActiveKernels().encode_elements(format, input.data() + i, nullptr, std::min(kPiece, kElements - i),
                                      expected.data() + 2 * i);
    }
    for (const Kernels* target : AvailableKernels()) {
      if (target == &ScalarKernels()) continue;  // it has one way
      std::fill(memory.begin(), memory.end(), 0.0f);
      EXPECT_TRUE(target->encode_elements(format, input.data(), nullptr, kElements, out)) << target->name;
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), out)) << target->name;
      EXPECT_EQ(out[expected.size()], std::byte{0}) << target->name;
    }
  }
}

TEST(Kernels, CollectCountsBeyondItsCapacity) {
  const std::vector<float> values = Normal(1000, 3);
  for (const Kernels* target : AvailableKernels()) {
    std::vector<uint32_t> indices(11, 77);
    std::vector<float> found(11, 77.0f);
    const Kernels::Collected collected =
        target->collect({.input = values.data()}, values.size(), 500, 1.0f, indices.data(), found.data(), 10);
    EXPECT_EQ(collected.count, static_cast<size_t>(std::count_if(values.begin(), values.end(), [](float x) {
                return std::fabs(x) >= 1.0f;
              })));
    EXPECT_EQ(indices[10], 77u);
    EXPECT_EQ(found[10], 77.0f);
    for (size_t i = 0; i < 10; ++i) EXPECT_EQ(found[i], values[indices[i] - 500]);
    EXPECT_TRUE(std::is_sorted(indices.begin(), indices.begin() + 10));
  }
}

// Momentum by itself and within collect: of every rule, on every target, also where the gradient is not
// finite.
TEST(Kernels, MomentumIsThatOfTheReference) {
  struct Outcome {
    std::vector<uint32_t> u, sent, residual, indices, values;
    size_t count = 0;
    bool finite = false;
    bool collect_nonfinite = false;
    bool operator==(const Outcome&) const = default;
  };
  for (const NamedVector& vector : AllVectors()) {
    const size_t n = vector.values.size();
    const std::vector<float> parameter = Normal(n, 7);
    const auto run = [&](const Kernels& target, bool nesterov, bool decays) {
      Outcome outcome;
      Momentum rule{.momentum = 0.9f, .scale = 0.7f, .decay = 0.01f, .nesterov = nesterov};
      if (decays) rule.parameter = parameter.data();
      std::vector<float> u = Normal(n, 8);
      std::vector<float> sent(n);
      rule.u = u.data();
      outcome.finite = target.add_momentum(rule, vector.values.data(), sent.data(), n);
      outcome.u = Bits(u);
      outcome.sent = Bits(sent);

      std::vector<float> fused = Normal(n, 8);
      std::vector<float> residual = Normal(n, 9);
      std::vector<uint32_t> indices(n);
      std::vector<float> values(n);
      rule.u = fused.data();
      const Kernels::Collected found =
          target.collect({.input = vector.values.data(), .residual = residual.data(), .momentum = &rule}, n,
                         3, 1.5f, indices.data(), values.data(), n);
      EXPECT_EQ(Bits(fused), outcome.u) << "fused or not, u moves alike";
      EXPECT_TRUE(std::all_of(fused.begin(), fused.end(), [](float x) { return std::isfinite(x); }));
      outcome.count = found.count;
      outcome.collect_nonfinite = found.nonfinite;
      outcome.residual = Bits(residual);
      outcome.indices = indices;
      outcome.values = Bits(values);

      // What is sent, collected as any other input.
      std::vector<float> plain = Normal(n, 9);
      target.collect({.input = sent.data(), .residual = plain.data()}, n, 3, 1.5f, indices.data(),
                     values.data(), n);
      EXPECT_EQ(Bits(plain), outcome.residual);
      return outcome;
    };
    for (const bool nesterov : {false, true}) {
      for (const bool decays : {false, true}) {
        const Outcome expected = run(ScalarKernels(), nesterov, decays);
        EXPECT_EQ(expected.finite, !expected.collect_nonfinite);
        for (const Kernels* target : AvailableKernels()) {
          EXPECT_TRUE(run(*target, nesterov, decays) == expected)
              << target->name << " " << vector.name << " " << nesterov << decays;
        }
      }
    }
  }
}

// Equal words would be equal rounding errors: neighbours, rows and keys all differ.
TEST(Kernels, RandomWordsLookRandom) {
  std::set<uint32_t> seen;
  uint64_t ones = 0;
  for (uint32_t k = 0; k < 4; ++k) {
    const uint32_t key[2] = {k & 1, k >> 1};
    for (uint32_t i = 0; i < 10'000; ++i) {
      const uint32_t word = RandomWord(key, i);
      seen.insert(word);
      ones += static_cast<uint64_t>(std::popcount(word));
    }
  }
  EXPECT_GE(seen.size(), 39'990u);
  EXPECT_NEAR(static_cast<double>(ones) / (40'000 * 32), 0.5, 0.002);
}

// Around the caches, from any alignment.
TEST(Streaming, WritesWhatOrdinaryStoresWrite) {
  FloatVector memory(4096 + 64);
  for (const Kernels* kernels : AvailableKernels()) {
    for (const size_t shift : {0, 1, 15}) {
      for (const size_t n : {0, 1, 15, 16, 47, 1000, 4096}) {
        std::fill(memory.begin(), memory.end(), 7.0f);
        kernels->stream_zeros(memory.data() + shift, n);
        EndStream();
        for (size_t i = 0; i < memory.size(); ++i) {
          ASSERT_EQ(memory[i], i >= shift && i < shift + n ? 0.0f : 7.0f) << kernels->name << " " << n;
        }
      }
    }
  }
}

// Blocks on one side of zero, zeros of both signs, and what is not finite among either, behind whole vectors
// too.
TEST(Range, IsThatOfTheReferenceWhateverTheSigns) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float specials[] = {kInfinity, -kInfinity, std::nanf(""), -std::nanf(""), FLT_MAX,
                            -FLT_MAX,  0.0f,       -0.0f,         0x1p-149f,      -0x1p-149f};
  const auto compare = [](const std::vector<float>& input, const std::vector<float>& residual) {
    const float* with = residual.empty() ? nullptr : residual.data();
    Range expected;
    ScalarKernels().range(input.data(), with, input.size(), &expected);
    for (const Kernels* target : AvailableKernels()) {
      SCOPED_TRACE(std::string(target->name) + " " + std::to_string(input.size()));
      Range range;
      target->range(input.data(), with, input.size(), &range);
      EXPECT_EQ(range.low, expected.low);  // either zero
      EXPECT_EQ(range.high, expected.high);
      EXPECT_EQ(range.nonfinite, expected.nonfinite);
      EXPECT_EQ(range.plain, expected.plain);
    }
  };
  for (const size_t n : {1, 15, 16, 31, 48, 100, 512}) {
    const std::vector<float> normal = Normal(n, 11);
    for (const int side : {-1, 0, 1}) {
      std::vector<float> input = normal;
      if (side != 0) {
        for (float& x : input) x = std::copysign(x, static_cast<float>(side));
      }
      compare(input, {});
      compare(input, std::vector<float>(n));
      for (const float special : specials) {
        for (const size_t at : {size_t{0}, n / 2, n - 1}) {
          std::vector<float> other = input;
          other[at] = special;
          compare(other, {});
          compare(other, std::vector<float>(n, -0.0f));
          compare(std::vector<float>(n, -0.0f), other);
        }
      }
    }
    for (const float special : specials) {
      compare(std::vector<float>(n, special), {});
      compare(std::vector<float>(n, special), std::vector<float>(n, special));
    }
  }
}

// A weight that is a power of two, and levels of every size, go by ways of their own. Units are bfloat16.
TEST(QuantizeDecode, EveryTargetSumsTheSameBits) {
  constexpr size_t kElements = 1000;
  std::vector<std::byte> codes(kStreamPeers * kElements);
  std::mt19937 random(9);
  for (std::byte& code : codes) code = static_cast<std::byte>(random());
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float minimums[] = {-1.3f, 0.0f, -0.0f, 0.7f, 1e-38f, -1e-40f, 3e38f, -1e30f, 1e-25f, -kInfinity};
  const float units[] = {0x1.62p-3f,   0.0f,       0x1p-133f,   0x1.b4p-127f,
                         0x1.44p-100f, 0x1.94p99f, -0x1.34p-2f, kInfinity};
  const std::vector<float> before = Normal(kElements, 10);
  size_t next = 0;
  for (const float weight : {1.0f, 0.5f, 0.25f, 0.2f, 0x1p-20f, 0x1p-40f, 2.0f}) {
    for (const float minimum : minimums) {
      for (const float unit : units) {
        Peers from;
        const size_t peers = 1 + next++ % kStreamPeers;
        float low[kStreamPeers] = {minimum, -0.9f, 0.3f, minimum};
        float step[kStreamPeers] = {0x1.c2p-4f, 0x1.aep-3f, unit, unit};
        if (peers < 3) step[peers - 1] = unit;
        for (; from.count < peers; ++from.count)
          from.data[from.count] = codes.data() + from.count * kElements;
        const uint32_t bits = next % 5 == 0 ? 3 : next % 2 == 0 ? 4 : 8;
        const Start start = peers == 1 ? Start::kAssign : next % 3 == 0 ? Start::kAdd : Start::kZero;
        std::vector<float> expected = before;
        ScalarKernels().quantize_decode(bits, from, low, step, weight, 0, start, expected.data(), kElements);
        for (const Kernels* target : AvailableKernels()) {
          std::vector<float> sum = before;
          target->quantize_decode(bits, from, low, step, weight, 0, start, sum.data(), kElements);
          ASSERT_EQ(Bits(sum), Bits(expected))
              << target->name << " " << bits << " bits, " << peers << " peers, weight " << weight << ", "
              << minimum << " + " << unit;
        }
      }
    }
  }
}

// The old residual stays where it is, the new one goes around the caches where it is aligned for that.
TEST(Streaming, AResidualElsewhereIsThatInPlace) {
  for (const NamedVector& vector : AllVectors()) {
    const size_t n = vector.values.size();
    const std::vector<float> before = Normal(n, 8);
    for (const Kernels* kernels : AvailableKernels()) {
      for (const float deferred : {0.0f, 0.75f}) {
        for (const size_t shift : {0, 1, 8}) {
          SCOPED_TRACE(std::string(kernels->name) + " " + vector.name + " " + std::to_string(shift));
          std::vector<float> expected = before;
          std::vector<std::byte> expected_bits((n + 7) / 8);
          const Sum expected_sum =
              ScalarKernels().onebit_defer(wire::ScaleNorm::kL2, deferred, vector.values.data(),
                                           expected.data(), expected.data(), n, expected_bits.data());
          FloatVector around(n + 2 * shift + 1, 7.0f);
          std::vector<std::byte> bits((n + 7) / 8);
          const Sum sum = kernels->onebit_defer(wire::ScaleNorm::kL2, deferred, vector.values.data(),
                                                before.data(), around.data() + shift, n, bits.data());
          EndStream();
          EXPECT_EQ(std::bit_cast<uint64_t>(sum.value), std::bit_cast<uint64_t>(expected_sum.value));
          EXPECT_EQ(sum.nonfinite, expected_sum.nonfinite);
          EXPECT_EQ(bits, expected_bits);
          const auto begin = around.begin() + static_cast<ptrdiff_t>(shift);
          EXPECT_EQ(Bits({begin, begin + static_cast<ptrdiff_t>(n)}), Bits(expected));
          EXPECT_EQ(before, Normal(n, 8));
          for (size_t i = 0; i < around.size(); ++i) {
            ASSERT_TRUE((i >= shift && i < shift + n) || around[i] == 7.0f) << i;
          }
        }
      }
    }
  }
}

TEST(Streaming, CodesWithAResidualElsewhereAreThoseInPlace) {
  for (const size_t n : {1, 15, 16, 47, 64, 512, 513}) {
    const std::vector<float> input = Normal(n, 9);
    const std::vector<float> before = Normal(n, 10);
    Quantizer quantizer;
    quantizer.minimum = -8.0f;
    quantizer.key[0] = 3;
    for (const uint32_t bits : {4, 5, 8}) {
      quantizer.bits = bits;
      quantizer.greatest_code = (1u << bits) - 1;
      quantizer.unit = 16.0f / static_cast<float>(1u << bits);
      for (const bool stochastic : {false, true}) {
        quantizer.stochastic = stochastic;
        quantizer.inverse = (stochastic ? 0.999f : 1.0f) / quantizer.unit;
        const auto encode = [&](const Kernels& kernels, const float* from, float* residual) {
          std::vector<std::byte> codes(n + 128);
          LaneStream stream;
          stream.out = codes.data();
          kernels.quantize_encode(quantizer, input.data(), from, residual, n, stream);
          EndStream();
          codes.resize(static_cast<size_t>(stream.out - codes.data()));
          const auto* const rest = reinterpret_cast<const std::byte*>(stream.word);
          codes.insert(codes.end(), rest, rest + (stream.fill > 0 ? sizeof(stream.word) : 0));
          return codes;
        };
        std::vector<float> expected = before;
        const std::vector<std::byte> expected_codes =
            encode(ScalarKernels(), expected.data(), expected.data());
        for (const Kernels* kernels : AvailableKernels()) {
          for (const size_t shift : {0, 1}) {
            SCOPED_TRACE(std::string(kernels->name) + " " + std::to_string(n) + " " + std::to_string(bits));
            FloatVector around(n + 2 * shift + 1, 7.0f);
            EXPECT_EQ(encode(*kernels, before.data(), around.data() + shift), expected_codes);
            const auto begin = around.begin() + static_cast<ptrdiff_t>(shift);
            EXPECT_EQ(Bits({begin, begin + static_cast<ptrdiff_t>(n)}), Bits(expected));
            EXPECT_EQ(before, Normal(n, 10));
            EXPECT_EQ(around.back(), 7.0f);
          }
        }
      }
    }
  }
}

TEST(Streaming, SumsAroundTheCachesAsIntoThem) {
  constexpr size_t kElements = 9000;  // more than are decoded at once
  constexpr size_t kApart = 9008;
  std::vector<std::byte> bytes(kStreamPeers * kElements * sizeof(float));
  const std::vector<float> values = Normal(kStreamPeers * kElements, 6);
  std::memcpy(bytes.data(), values.data(), bytes.size());
  const float levels[2][kStreamPeers] = {{-1.0f, 0.5f, 0.0f, -7.0f}, {0.25f, 1.0f, 0.0f, 3.0f}};
  for (const Kernels* kernels : AvailableKernels()) {
    for (size_t peers = 1; peers <= kStreamPeers; ++peers) {
      Peers from;
      for (; from.count < peers; ++from.count)
        from.data[from.count] = bytes.data() + from.count * kElements * 4;
      const auto all = [&](Start start, float* out) {
        kernels->onebit_decode(from, levels[0], start, out, kElements);
        kernels->quantize_decode(4, from, levels[0], levels[1], 0.3f, 8, start, out + kApart, kElements);
        kernels->quantize_decode(8, from, levels[0], levels[1], 0.3f, 0, start, out + 2 * kApart, kElements);
        kernels->decode_elements(ElementFormat::kBf16, from, 0.3f, start, out + 3 * kApart, kElements);
      };
      // Vectors lie as malloc() and others leave them: by 4 elements behind a line's begin, and any other.
      for (const size_t shift : {0, 1, 4, 8, 12, 15}) {
        FloatVector plain(4 * kApart + shift, 7.0f);
        FloatVector around(4 * kApart + shift, 7.0f);
        const bool assigns = peers == 1 && shift > 4;
        all(assigns ? Start::kAssign : Start::kZero, plain.data() + shift);
        all(assigns ? Start::kStream : Start::kStreamZero, around.data() + shift);
        EndStream();
        EXPECT_EQ(Bits({plain.begin(), plain.end()}), Bits({around.begin(), around.end()}))
            << kernels->name << " " << peers << " " << shift;
      }
    }
  }
}

}  // namespace
}  // namespace terse::kernels
