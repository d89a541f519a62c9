// SPDX-License-Identifier: Apache-2.0
#include "compressors/half.h"

#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/floats.h"
#include "gtest/gtest.h"
#include "tests/compressors/codec_cases.h"

namespace terse {
namespace {

using ::terse::testing::Bits;
using ::terse::testing::CodecCase;
using ::terse::testing::Tensor;

// The value of a 16-bit pattern with that many exponent bits, from the definition of the format.
double ValueOf(uint32_t pattern, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>((pattern & 0x7fff) >> fraction_bits);
  const double fraction = std::ldexp(pattern & ((1u << fraction_bits) - 1), -fraction_bits);
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, exponent - bias);
  return (pattern & 0x8000) != 0 ? -magnitude : magnitude;
}

struct Format {
  const Compressor* codec;
  int exponent_bits;
};

class Half : public ::testing::TestWithParam<Format> {
 protected:
  CodecCase Case() const { return {GetParam().codec, {}, ""}; }
  uint32_t infinity() const {
    return ((1u << GetParam().exponent_bits) - 1) << (15 - GetParam().exponent_bits);
  }
};

TEST_P(Half, EveryPatternDecodesToItsValueAndEncodesBack) {
  std::vector<std::byte> payload;
  std::vector<float> expected;
  for (uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    if ((pattern & 0x7fff) >= infinity()) continue;
    payload.push_back(static_cast<std::byte>(pattern));
    payload.push_back(static_cast<std::byte>(pattern >> 8));
    expected.push_back(static_cast<float>(ValueOf(pattern, GetParam().exponent_bits)));
  }
  for (const kernels::Kernels* target : kernels::AvailableKernels()) {
    SCOPED_TRACE(target->name);
    const kernels::ScopedKernelsForTest scoped(*target);
    std::vector<float> decoded(expected.size());
    ASSERT_TRUE(
        GetParam().codec->Decode({}, payload, 1.0f, Accumulate::kAssign, absl::MakeSpan(decoded)).ok());
    EXPECT_EQ(Bits(decoded), Bits(expected));
    Tensor tensor(Case(), decoded.size(), 0, false);
    tensor.Encode(decoded);
    EXPECT_EQ(tensor.payloads()[0], payload);
  }
}

TEST_P(Half, RoundsToNearestEven) {
  // Around each pattern: the middle to the next, and the floats beside that middle.
  std::vector<float> input, expected;
  for (uint32_t pattern = 0; pattern + 1 < infinity(); ++pattern) {
    const double low = ValueOf(pattern, GetParam().exponent_bits);
    const double high = ValueOf(pattern + 1, GetParam().exponent_bits);
    const float middle = static_cast<float>(low / 2 + high / 2);
    if (double{middle} != low / 2 + high / 2) continue;  // bfloat16's least subnormal
    input.insert(input.end(), {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, FLT_MAX)});
    expected.insert(expected.end(),
                    {static_cast<float>(low), static_cast<float>(pattern % 2 == 0 ? low : high),
                     static_cast<float>(high)});
  }
  for (const kernels::Kernels* target : kernels::AvailableKernels()) {
    SCOPED_TRACE(target->name);
    const kernels::ScopedKernelsForTest scoped(*target);
    for (int sign = 0; sign < 2; ++sign) {
      Tensor tensor(Case(), input.size(), 0, false);
      tensor.Encode(input);
      EXPECT_EQ(Bits(tensor.Decoded()), Bits(expected));
      for (float& x : input) x = -x;
      for (float& x : expected) x = -x;
    }
  }
}

TEST_P(Half, SaturatesAndKeepsWhatIsCutOff) {
  const float greatest = static_cast<float>(ValueOf(infinity() - 1, GetParam().exponent_bits));
  Tensor tensor(Case(), 2);
  tensor.Encode({FLT_MAX, -FLT_MAX});
  EXPECT_EQ(tensor.Decoded(), (std::vector<float>{greatest, -greatest}));
  EXPECT_EQ(tensor.residual(), (std::vector<float>{FLT_MAX - greatest, greatest - FLT_MAX}));
}

TEST_P(Half, RefusesNanAndInf) {
  for (const uint32_t pattern : {infinity(), infinity() + 1, infinity() | 0x8000, 0xffffu}) {
    for (const size_t position : {0, 16}) {
      std::vector<std::byte> payload(17 * 2);
      payload[position * 2] = static_cast<std::byte>(pattern);
      payload[position * 2 + 1] = static_cast<std::byte>(pattern >> 8);
      std::vector<float> out(17);
      EXPECT_EQ(GetParam().codec->Decode({}, payload, 1.0f, Accumulate::kAdd, absl::MakeSpan(out)).code(),
                absl::StatusCode::kDataLoss);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, Half,
                         ::testing::Values(Format{&Fp16Compressor(), 5}, Format{&Bf16Compressor(), 8}),
                         [](const auto& parameter) {
                           return parameter.param.exponent_bits == 5 ? "fp16" : "bf16";
                         });

TEST(None, SendsEveryBitAndKeepsNothing) {
  const std::vector<float> input = {1.0f, -0.0f, std::numeric_limits<float>::denorm_min(), -FLT_MAX};
  Tensor tensor({&NoneCompressor(), {}, ""}, input.size(), 0, false);
  tensor.Encode(input);
  EXPECT_EQ(Bits(tensor.Decoded()), Bits(input));
  Tensor with_feedback({&NoneCompressor(), {}, ""}, input.size());
  with_feedback.residual() = {1.0f, 2.0f, 3.0f, -FLT_MAX};
  with_feedback.Encode(input);
  EXPECT_EQ(with_feedback.Decoded(), (std::vector<float>{2.0f, 2.0f, 3.0f, -FLT_MAX}));
  EXPECT_EQ(with_feedback.residual(), std::vector<float>(4));
}

}  // namespace
}  // namespace terse
