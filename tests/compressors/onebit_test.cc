// SPDX-License-Identifier: Apache-2.0
#include "compressors/onebit.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compressors/codec_cases.h"

namespace terse {
namespace {

using ::terse::testing::Bits;
using ::terse::testing::CodecCase;
using ::terse::testing::GuardedBytes;
using ::terse::testing::Normal;
using ::terse::testing::Tensor;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

CodecCase OneBitCase(wire::ScaleNorm norm, uint32_t block) {
  CodecCase test_case{&OneBitCompressor(), {}, "onebit"};
  test_case.params.scale = norm;
  test_case.params.block = block;
  return test_case;
}

double NormOf(const std::vector<float>& values) {
  double squares = 0;
  for (const float x : values) squares += double{x} * x;
  return std::sqrt(squares);
}

float ScaleOf(const std::vector<std::byte>& payload, size_t index = 0) {
  return wire::Load<float>(payload.data() + index * sizeof(float));
}

// The sign bytes of a payload with one scale as other implementations print them: most significant bit
// first, 1 = not negative. On our wire it is least significant first, 1 = negative.
std::vector<int> PrintedBits(const std::vector<std::byte>& payload) {
  std::vector<int> printed;
  for (size_t i = sizeof(float); i < payload.size(); ++i) {
    int byte = 0;
    for (int bit = 0; bit < 8; ++bit) {
      const bool negative = (std::to_integer<int>(payload[i]) >> bit) & 1;
      byte |= (negative ? 0 : 1) << (7 - bit);
    }
    printed.push_back(byte);
  }
  return printed;
}

// A scatter-reduce-all-gather of two workers by hand: the exact example of the reference (onebit_adam.md,
// section 6, item 7), with both compressions, both errors and two rounds.
TEST(OneBit, ReproducesTheWorkedExample) {
  constexpr size_t kElements = 16;
  constexpr size_t kChunk = 8;
  struct Round {
    std::vector<float> m[2];
    float worker_scale[2];
    std::vector<int> worker_bits[2];
    float server_scale[2];
    std::vector<int> server_bits;
    std::vector<float> mean;
    std::vector<float> worker_error[2];
    std::vector<float> server_error;
  };
  const Round rounds[] = {
      {{{0, 5, 1, 1, -4, -2, 1, -1, -3, 6, 5, -2, 2, -8, -1, 8},
        {-1, 2, -1, -1, -2, -3, -2, 2, -2, -2, 1, 2, -1, 3, -3, -2}},
       {4, 2},
       {{0xf2, 0x69}, {0x41, 0x34}},
       {2, 2},
       {0xf2, 0x69},
       {2, 2, 2, 2, -2, -2, 2, -2, -2, 2, 2, -2, 2, -2, -2, 2},
       {{-4, 1, -3, -3, 0, 2, -3, 3, 1, 2, 1, 2, -2, -4, 3, 4},
        {1, 0, 1, 1, 0, -1, 0, 0, 0, 0, -1, 0, 1, 1, -1, 0}},
       {-1, 1, -1, -1, -1, -1, -1, 1, -1, -1, 1, 1, -1, 1, -1, -1}},
      {{{6, 0, 9, 4, 2, -7, 6, -8, 4, 0, 3, 7, 6, 2, -1, -5},
        {-1, -11, 11, 2, -6, 11, -3, -10, 4, -1, 5, 3, 1, 2, 2, 1}},
       {4, 6},
       {{0xfa, 0xfa}, {0xb4, 0xbf}},
       {3, 4},
       {0xf4, 0xbf},
       {3, 3, 3, 3, -3, 3, -3, -3, 4, -4, 4, 4, 4, 4, 4, 4},
       {{-2, -3, 2, -3, -2, -1, -1, -1, 1, -2, 0, 5, 0, 2, -2, 3},
        {-6, -5, 6, -3, 0, 4, 3, -4, -2, 5, -2, -3, -4, -3, -5, -5}},
       {1, -3, 1, 1, 1, -3, 1, -1, 0, 2, 2, 2, 0, -2, 0, -4}},
  };

  const CodecCase test_case = OneBitCase(wire::ScaleNorm::kL2, 0);
  Tensor workers[2] = {Tensor(test_case, kElements, kChunk), Tensor(test_case, kElements, kChunk)};
  Tensor servers[2] = {Tensor(test_case, kChunk), Tensor(test_case, kChunk)};
  for (const Round& round : rounds) {
    for (int w = 0; w < 2; ++w) {
      workers[w].Encode(round.m[w]);
      std::vector<int> printed;
      for (const std::vector<std::byte>& payload : workers[w].payloads()) {
        EXPECT_EQ(ScaleOf(payload), round.worker_scale[w]);
        const std::vector<int> bits = PrintedBits(payload);
        printed.insert(printed.end(), bits.begin(), bits.end());
      }
      EXPECT_EQ(printed, round.worker_bits[w]);
      EXPECT_EQ(workers[w].residual(), round.worker_error[w]);
    }
    std::vector<float> mean, server_error;
    std::vector<int> server_bits;
    for (int owner = 0; owner < 2; ++owner) {
      std::vector<float> sum(kChunk);
      ASSERT_TRUE(OneBitCompressor()
                      .DecodeSum(test_case.params,
                                 {workers[0].payloads()[owner], workers[1].payloads()[owner]}, 0.5f,
                                 absl::MakeSpan(sum))
                      .ok());
      Tensor& server = servers[owner];
      server.Encode(sum);
      EXPECT_EQ(ScaleOf(server.payloads()[0]), round.server_scale[owner]);
      const std::vector<int> bits = PrintedBits(server.payloads()[0]);
      server_bits.insert(server_bits.end(), bits.begin(), bits.end());
      const std::vector<float> decoded = server.Decoded();
      mean.insert(mean.end(), decoded.begin(), decoded.end());
      server_error.insert(server_error.end(), server.residual().begin(), server.residual().end());
    }
    EXPECT_EQ(server_bits, round.server_bits);
    EXPECT_EQ(mean, round.mean);
    EXPECT_EQ(server_error, round.server_error);
  }
}

TEST(OneBit, L1ScaleIsTheMeanMagnitude) {
  Tensor first(OneBitCase(wire::ScaleNorm::kL1, 0), 16);
  first.Encode({0, 5, 1, 1, -4, -2, 1, -1, -3, 6, 5, -2, 2, -8, -1, 8});
  EXPECT_EQ(ScaleOf(first.payloads()[0]), 3.125f);
  Tensor second(OneBitCase(wire::ScaleNorm::kL1, 0), 16);
  second.Encode({-1, 2, -1, -1, -2, -3, -2, 2, -2, -2, 1, 2, -1, 3, -3, -2});
  EXPECT_EQ(ScaleOf(second.payloads()[0]), 1.875f);
}

TEST(OneBit, BlocksHaveScalesOfTheirOwn) {
  Tensor tensor(OneBitCase(wire::ScaleNorm::kL1, 8), 20);
  std::vector<float> input(20, 1.0f);
  for (size_t i = 8; i < 16; ++i) input[i] = i % 2 == 0 ? 4.0f : -2.0f;
  input[18] = -3.0f;
  tensor.Encode(input);
  const std::vector<std::byte>& payload = tensor.payloads()[0];
  ASSERT_EQ(payload.size(), 3 * sizeof(float) + 3);
  EXPECT_EQ(ScaleOf(payload, 0), 1.0f);
  EXPECT_EQ(ScaleOf(payload, 1), 3.0f);
  EXPECT_EQ(ScaleOf(payload, 2), 1.5f);
  EXPECT_EQ(payload[12], std::byte{0x00});
  EXPECT_EQ(payload[13], std::byte{0xaa});
  EXPECT_EQ(payload[14], std::byte{0x04});
}

TEST(OneBit, ZeroDecodesAsPlusZero) {
  for (const std::vector<float>& input : {std::vector<float>(1000), std::vector<float>(1000, -0.0f),
                                          // Its mean, a thousandth of the least float, rounds to 0.
                                          [] {
                                            std::vector<float> least(1000);
                                            least[500] = -std::numeric_limits<float>::denorm_min();
                                            return least;
                                          }()}) {
    Tensor tensor(OneBitCase(wire::ScaleNorm::kL1, 0), input.size());
    tensor.Encode(input);
    EXPECT_EQ(ScaleOf(tensor.payloads()[0]), 0.0f);
    EXPECT_EQ(Bits(tensor.Decoded()), std::vector<uint32_t>(input.size(), 0));
    EXPECT_EQ(tensor.residual(), input);
  }
}

// The reference's figures (onebit_adam.md, section 1): one-hot of 1024, 2000 rounds: norm 31 with L2, 501
// with L1.
TEST(OneBit, ErrorOfAConstantSpikeIsThatOfTheReference) {
  for (const auto& [norm, expected] :
       {std::pair(wire::ScaleNorm::kL2, 31.0), {wire::ScaleNorm::kL1, 501.0}}) {
    Tensor tensor(OneBitCase(norm, 0), 1024);
    std::vector<float> input(1024);
    input[17] = 1.0f;
    for (int round = 0; round < 2000; ++round) tensor.Encode(input);
    EXPECT_NEAR(NormOf(tensor.residual()), expected, 1.0);
  }
}

// Section 1: error^2 = 2 |u|^2 (1 - |u|_1 / (sqrt(d) |u|)) with L2. With L1 it is |u|^2 - |u|_1^2 / d.
TEST(OneBit, OneShotErrorIsThatOfTheFormula) {
  const std::vector<float> u = Normal(1000, 3);
  double sum = 0;
  for (const float x : u) sum += std::fabs(x);
  const double norm = NormOf(u);
  Tensor l2(OneBitCase(wire::ScaleNorm::kL2, 0), u.size());
  l2.Encode(u);
  EXPECT_NEAR(std::pow(NormOf(l2.residual()), 2), 2 * norm * norm * (1 - sum / (std::sqrt(1000.0) * norm)),
              1e-3);
  Tensor l1(OneBitCase(wire::ScaleNorm::kL1, 0), u.size());
  l1.Encode(u);
  EXPECT_NEAR(std::pow(NormOf(l1.residual()), 2), norm * norm - sum * sum / 1000, 1e-3);
}

TEST(OneBit, IsAThirtiethOfDense) {
  const size_t n = 25'600'000;
  wire::CodecParams params;
  params.block = 0;
  EXPECT_EQ(OneBitCompressor().MaxPayloadBytes(params, n), n / 8 + 4);
  params.block = 1024;
  EXPECT_LE(OneBitCompressor().MaxPayloadBytes(params, n) * 30, n * 4);
}

TEST(OneBit, RefusesBadScales) {
  const CodecCase test_case = OneBitCase(wire::ScaleNorm::kL2, 0);
  Tensor tensor(test_case, 16);
  tensor.Encode(Normal(16, 1));
  std::vector<float> out(16);
  for (const float scale :
       {-1.0f, -0.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<std::byte> payload = tensor.payloads()[0];
    wire::Store(payload.data(), scale);
    EXPECT_EQ(OneBitCompressor()
                  .Decode(test_case.params, payload, 1.0f, Accumulate::kAssign, absl::MakeSpan(out))
                  .code(),
              absl::StatusCode::kDataLoss);
  }
}

TEST(OneBit, RefusesABlockThatSplitsBytes) {
  wire::CodecParams params;
  params.block = 12;
  EXPECT_EQ(OneBitCompressor().CheckParams(params).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace terse
