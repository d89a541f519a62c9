// SPDX-License-Identifier: Apache-2.0
#include "tests/compressors/codec_cases.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "compressors/registry.h"
#include "gtest/gtest.h"
#include "tests/matrix_shape.h"

namespace terse::testing {
namespace {

constexpr std::byte kGuard{0xa5};
constexpr size_t kGuardBytes = 64;

void AddVariants(const Compressor* codec, const std::string& name, std::vector<CodecCase>& cases) {
  const auto add = [&](const wire::CodecParams& params, const std::string& suffix) {
    cases.push_back({codec, params, absl::StrCat(name, suffix)});
  };
  wire::CodecParams params;
  switch (codec->codec()) {
    case wire::Codec::kTopK:
      for (const wire::IndexCoding index : {wire::IndexCoding::kU32, wire::IndexCoding::kRice}) {
        params.index = index;
        const char* coding = index == wire::IndexCoding::kU32 ? "_u32" : "_rice";
        params.density = 0.001;
        add(params, absl::StrCat(coding, "_01pc"));
        params.density = 0.03;
        add(params, absl::StrCat(coding, "_3pc"));
        params.density = 0.5;
        add(params, absl::StrCat(coding, "_50pc"));
        params.density = 1.0;
        add(params, absl::StrCat(coding, "_all"));
        params.density = 0.03;
        params.selection = wire::SelectionRule::kSampled;
        add(params, absl::StrCat(coding, "_3pc_sampled"));
        params.values = wire::ValueFormat::kFp16;
        add(params, absl::StrCat(coding, "_3pc_sampled_fp16"));
        params.selection = wire::SelectionRule::kExact;
        add(params, absl::StrCat(coding, "_3pc_fp16"));
        params.values = wire::ValueFormat::kBf16;
        add(params, absl::StrCat(coding, "_3pc_bf16"));
        params.density = 1.0;
        add(params, absl::StrCat(coding, "_all_bf16"));
        params.values = wire::ValueFormat::kFp32;
      }
      return;
    case wire::Codec::kOneBit:
      for (const wire::ScaleNorm norm : {wire::ScaleNorm::kL2, wire::ScaleNorm::kL1}) {
        params.scale = norm;
        const char* scale = norm == wire::ScaleNorm::kL2 ? "_l2" : "_l1";
        for (const uint32_t block : {0u, 8u, 512u, 8200u}) {
          params.block = block;
          add(params, absl::StrCat(scale, "_block", block));
        }
      }
      return;
    case wire::Codec::kQuantize:
      for (const wire::Rounding rounding : {wire::Rounding::kNearest, wire::Rounding::kStochastic}) {
        params.rounding = rounding;
        const char* mode = rounding == wire::Rounding::kNearest ? "" : "_stochastic";
        for (uint32_t bits = 1; bits <= 8; ++bits) {
          params.bits = bits;
          for (const uint32_t block : {16u, 48u, 512u}) {
            params.block = block;
            add(params, absl::StrCat("_bits", bits, "_block", block, mode));
          }
        }
        for (const wire::QuantizeSpan span : {wire::QuantizeSpan::kMax, wire::QuantizeSpan::kL2}) {
          params.span = span;
          const char* reach = span == wire::QuantizeSpan::kMax ? "_max" : "_l2";
          for (const uint32_t bits : {2u, 5u, 8u}) {
            params.bits = bits;
            params.block = bits == 5 ? 48 : 512;
            add(params, absl::StrCat("_bits", bits, reach, mode));
          }
        }
        params.span = wire::QuantizeSpan::kMinMax;
      }
      return;
    case wire::Codec::kPowerSgd:
      for (const uint32_t rank : {1u, 3u, 4u, 9u}) {
        params.rank = rank;
        params.error = rank == 3 ? wire::LowRankError::kAveraged : wire::LowRankError::kLocal;
        add(params, absl::StrCat("_rank", rank));
      }
      return;
    default:
      add(params, "");
  }
}

}  // namespace

std::vector<CodecCase> AllCases() {
  std::vector<CodecCase> cases;
#define TERSE_COMPRESSOR(codec, name, function) AddVariants(FindCompressor(wire::Codec::codec), name, cases);
#include "compressors/compressors.def"
#undef TERSE_COMPRESSOR
  return cases;
}

std::vector<float> Normal(size_t n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(generator);
  return values;
}

std::vector<NamedVector> AllVectors() {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  std::vector<NamedVector> all;
  for (const size_t n :
       {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 511, 512, 513, 1000, 4096, 4097, 20011}) {
    all.push_back({absl::StrCat("normal_", n), Normal(n, 100 + static_cast<uint32_t>(n))});
  }

  const auto make = [&all](const std::string& name, size_t n, const auto& value) {
    NamedVector vector{name, std::vector<float>(n)};
    for (size_t i = 0; i < n; ++i) vector.values[i] = value(i);
    all.push_back(std::move(vector));
  };
  const std::vector<float> noise = Normal(20000, 7);
  make("heavy_tail", 20000,
       [&](size_t i) { return noise[i] * std::exp(2.0f * noise[(i * 7919 + 1) % 20000]); });
  make("sparse", 20000, [&](size_t i) { return i % 997 == 5 ? noise[i] : 0.0f; });
  make("one_hot", 5000, [](size_t i) { return i == 4321 ? -2.0f : 0.0f; });
  make("zero", 5000, [](size_t i) { return 0.0f; });
  make("minus_zero", 1000, [](size_t i) { return -0.0f; });
  make("constant", 5000, [](size_t i) { return 0.1f; });
  make("ties", 5000, [](size_t i) { return i % 3 == 0 ? 1.0f : (i % 3 == 1 ? -1.0f : 0.5f); });
  make("clustered", 20000, [&](size_t i) { return i / 100 == 77 ? 10.0f + noise[i] : 0.001f * noise[i]; });
  make("denormal", 3000, [&](size_t i) { return noise[i] * 1e-41f; });
  make("least_denormal", 600, [](size_t i) { return i % 5 == 0 ? (i % 2 ? 1e-45f : -1e-45f) : 0.0f; });
  make("huge", 3000, [&](size_t i) { return std::clamp(noise[i], -1.0f, 1.0f) * FLT_MAX; });
  make("greatest", 100, [](size_t i) { return i % 2 ? FLT_MAX : -FLT_MAX; });
  make("all_scales", 3000, [&](size_t i) { return std::ldexp(noise[i], static_cast<int>(i % 250) - 125); });
  make("nan_and_inf", 3000, [&](size_t i) {
    return i % 501 == 3 ? kNan : (i % 701 == 4 ? kInf : (i % 901 == 5 ? -kInf : noise[i]));
  });
  make("only_nan", 40, [](size_t i) { return kNan; });
  return all;
}

GuardedBytes::GuardedBytes(size_t size) : memory_(size + 3 * kGuardBytes, kGuard), size_(size) {
  const size_t misaligned = reinterpret_cast<uintptr_t>(memory_.data()) % kGuardBytes;
  data_ = memory_.data() + 2 * kGuardBytes - misaligned;
}

bool GuardedBytes::Intact() const {
  const std::byte* end = memory_.data() + memory_.size();
  const auto is_guard = [](std::byte byte) { return byte == kGuard; };
  return std::all_of(memory_.data(), static_cast<const std::byte*>(data_), is_guard) &&
         std::all_of(static_cast<const std::byte*>(data_) + size_, end, is_guard);
}

Tensor::Tensor(const CodecCase& test_case, size_t n, size_t shard, bool error_feedback)
    : case_(test_case),
      n_(n),
      residual_(error_feedback ? n : 0),
      state_(test_case.codec->kind() == Kind::kLinear
                 ? test_case.codec->SizesOf(test_case.params, MatrixShape(n)).state
                 : test_case.codec->StateBytes(test_case.params, n)) {
  const size_t block = case_.codec->BlockElements(case_.params);
  size_t step = shard == 0 || case_.codec->kind() != Kind::kSplit ? n : (shard + block - 1) / block * block;
  for (size_t begin = 0; begin < n; begin += step) {
    Shard next;
    next.begin = begin;
    next.end = std::min(n, begin + step);
    shards_.push_back(next);
  }
  if (shards_.empty()) shards_.emplace_back();
}

EncodeResult Tensor::Encode(const std::vector<float>& input, const RandomKey& random) {
  if (case_.codec->kind() == Kind::kLinear) return EncodeRounds(input, random);
  GuardedBytes scratch(case_.codec->ScratchBytes(case_.params, n_));
  std::vector<GuardedBytes> outs;
  for (Shard& shard : shards_) {
    outs.emplace_back(case_.codec->MaxPayloadBytes(case_.params, shard.end - shard.begin));
  }
  for (size_t i = 0; i < shards_.size(); ++i) shards_[i].out = outs[i].bytes();

  EncodeArgs args;
  args.input = input;
  args.residual = absl::MakeSpan(residual_);
  args.state = absl::MakeSpan(state_);
  args.scratch = scratch.bytes();
  args.random = random;
  const absl::StatusOr<EncodeResult> result =
      case_.codec->Encode(case_.params, args, absl::MakeSpan(shards_));
  EXPECT_TRUE(result.ok()) << result.status();

  EXPECT_TRUE(scratch.Intact()) << "Encode wrote beyond its scratch";
  payloads_.clear();
  for (size_t i = 0; i < shards_.size(); ++i) {
    EXPECT_TRUE(outs[i].Intact()) << "Encode wrote beyond the room of shard " << i;
    EXPECT_LE(shards_[i].size, outs[i].bytes().size());
    if (case_.codec->fixed_size()) {
      EXPECT_EQ(shards_[i].size, outs[i].bytes().size());
    }
    payloads_.emplace_back(outs[i].bytes().begin(), outs[i].bytes().begin() + shards_[i].size);
  }
  EXPECT_TRUE(std::all_of(residual_.begin(), residual_.end(), [](float x) { return std::isfinite(x); }));
  return result.ok() ? *result : EncodeResult{};
}

std::vector<float>& Tensor::residual() {
  case_.codec->Materialize(case_.params, absl::MakeSpan(state_), absl::MakeSpan(residual_));
  if (!deferred_.empty()) {
    const absl::Status taken =
        case_.codec->Decode(case_.params, deferred_, -1.0f, Accumulate::kAdd, absl::MakeSpan(residual_));
    EXPECT_TRUE(taken.ok()) << taken;
    deferred_.clear();
  }
  return residual_;
}

EncodeResult Tensor::EncodeRounds(const std::vector<float>& input, const RandomKey& random) {
  const Compressor& codec = *case_.codec;
  const std::vector<int64_t> shape = MatrixShape(n_);
  const RoundSizes sizes = codec.SizesOf(case_.params, shape);
  EXPECT_LE(sizes.payload, codec.MaxPayloadBytes(case_.params, n_));
  GuardedBytes scratch(sizes.scratch);
  GuardedBytes payload(sizes.payload);
  GuardedBytes result(n_ * sizeof(float));
  const absl::Span<float> out(reinterpret_cast<float*>(result.bytes().data()), n_);
  std::vector<float> unkept(residual_.empty() ? n_ : 0);

  RoundArgs args;
  args.shape = shape;
  args.input = input;
  args.residual = absl::MakeSpan(residual_.empty() ? unkept : residual_);
  args.state = absl::MakeSpan(state_);
  args.deferred = deferred_;
  args.payload = payload.bytes();
  args.scratch = scratch.bytes();
  args.random = random;
  EncodeResult all;
  for (size_t round = 0; round < codec.Rounds(case_.params); ++round) {
    const size_t count = codec.RoundFloats(case_.params, shape, round);
    GuardedBytes memory(count * sizeof(float));
    const absl::Span<float> floats(reinterpret_cast<float*>(memory.bytes().data()), count);
    const absl::StatusOr<EncodeResult> begun = codec.BeginRound(case_.params, args, round, floats);
    EXPECT_TRUE(begun.ok()) << begun.status();
    if (begun.ok()) all.nonfinite |= begun->nonfinite;
    EXPECT_TRUE(std::all_of(floats.begin(), floats.end(), [](float x) { return std::isfinite(x); }));
    const absl::Status ended = codec.EndRound(case_.params, args, round, floats, out);
    EXPECT_TRUE(ended.ok()) << ended;
    EXPECT_TRUE(memory.Intact()) << "wrote beyond the floats of round " << round;
  }
  EXPECT_TRUE(scratch.Intact() && payload.Intact() && result.Intact());
  shards_[0].size = sizes.payload;
  payloads_.assign(1, {payload.bytes().begin(), payload.bytes().end()});
  deferred_.clear();
  if (!residual_.empty()) deferred_ = payloads_[0];
  EXPECT_EQ(Bits(Decoded()), Bits({out.begin(), out.end()})) << "alone, a rank gets what it sent";
  EXPECT_TRUE(std::all_of(residual_.begin(), residual_.end(), [](float x) { return std::isfinite(x); }));
  return all;
}

std::vector<float> Tensor::Decoded() const {
  std::vector<float> out(n_, std::numeric_limits<float>::quiet_NaN());
  for (size_t i = 0; i < shards_.size(); ++i) {
    const size_t begin = shards_[i].begin;
    const absl::Status status =
        case_.codec->Decode(case_.params, payloads_[i], 1.0f, Accumulate::kAssign,
                            absl::MakeSpan(out).subspan(begin, shards_[i].end - begin));
    EXPECT_TRUE(status.ok()) << status;
  }
  return out;
}

size_t Tensor::payload_bytes() const {
  size_t bytes = 0;
  for (const std::vector<std::byte>& payload : payloads_) bytes += payload.size();
  return bytes;
}

std::optional<std::string> BrokenPromise(const CodecCase& test_case, wire::Bytes payload, size_t n) {
  // A copy of its own, so that a sanitizer sees a read beyond it.
  const std::vector<std::byte> copy(payload.begin(), payload.end());
  GuardedBytes out(n * sizeof(float));
  const absl::Span<float> values(reinterpret_cast<float*>(out.bytes().data()), n);
  const absl::Status status =
      test_case.codec->Decode(test_case.params, copy, 1.0f, Accumulate::kAssign, values);
  if (!out.Intact()) return "wrote outside of the output";
  if (!status.ok() && status.code() != absl::StatusCode::kDataLoss) return "refused as " + status.ToString();
  if (status.ok() && !std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); })) {
    return "decoded a value that is not finite";
  }

  const std::array<wire::Bytes, 2> payloads = {copy, copy};
  const absl::Status sum_status = test_case.codec->DecodeSum(test_case.params, payloads, 1.0f, values);
  if (!out.Intact()) return "wrote outside of the output, adding up";
  if (sum_status.ok() != status.ok()) return "decodes one payload and a sum with different results";
  if (test_case.codec->kind() != Kind::kGather) return std::nullopt;

  std::vector<uint32_t> indices(std::min<size_t>(n, 64));
  const absl::StatusOr<size_t> count =
      test_case.codec->Support(test_case.params, copy, n, absl::MakeSpan(indices));
  if (!count.ok()) return std::nullopt;
  if (!status.ok()) return "has a support, but refuses to decode";
  if (*count > indices.size()) return "has more positions than there was room for";
  for (size_t i = 0; i < *count; ++i) {
    if (indices[i] >= n || (i > 0 && indices[i] <= indices[i - 1])) return "has positions that do not ascend";
  }
  return std::nullopt;
}

std::vector<float> Compensated(const std::vector<float>& input, const std::vector<float>& residual) {
  std::vector<float> c(input.size());
  for (size_t i = 0; i < c.size(); ++i) {
    const float x = std::isfinite(input[i]) ? input[i] : 0.0f;
    c[i] = residual.empty() ? x : std::clamp(x + residual[i], -FLT_MAX, FLT_MAX);
  }
  return c;
}

std::optional<std::string> NotConserved(const CodecCase& test_case, const std::vector<float>& c,
                                        const std::vector<float>& decoded,
                                        const std::vector<float>& residual) {
  const auto bits = [](float x) { return std::bit_cast<uint32_t>(x); };
  for (size_t i = 0; i < c.size(); ++i) {
    bool conserved = false;
    if (test_case.codec->kind() == Kind::kGather) {
      const bool kept = decoded[i] == 0.0f && bits(residual[i]) == bits(c[i]);
      const bool sent = decoded[i] != 0.0f && residual[i] == c[i] - decoded[i];
      const bool verbatim = test_case.params.values == wire::ValueFormat::kFp32;
      conserved = kept || (sent && (!verbatim || bits(decoded[i]) == bits(c[i])));
    } else {
      const double difference = std::fabs(double{decoded[i]} + double{residual[i]} - double{c[i]});
      const double scale =
          std::max({std::fabs(double{c[i]}), std::fabs(double{decoded[i]}), std::fabs(double{residual[i]})});
      conserved = difference <= std::ldexp(scale, -24);
    }
    if (!conserved) {
      return absl::StrCat("element ", i, ": c ", c[i], ", decoded ", decoded[i], ", kept ", residual[i]);
    }
  }
  return std::nullopt;
}

std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

}  // namespace terse::testing
