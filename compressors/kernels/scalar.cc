// SPDX-License-Identifier: Apache-2.0
//
// The reference: every kernel in plain C++, written for reading. The SIMD kernels are tested against it
// bit by bit. It also runs where no SIMD target is there, so bits are handled by the byte or the word.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/floats.h"
#include "compressors/kernels/kernels.h"
#include "compressors/kernels/random.h"
#include "proto/wire/bytes.h"

namespace terse::kernels {
namespace {

bool IsFinite(float x) { return Magnitude(x) < kInfinityBits; }

// c of the element, for the kernel that sees it first.
float Compensate(const float* input, const float* residual, size_t i, bool& nonfinite) {
  float x = input[i];
  if (!IsFinite(x)) {
    nonfinite = true;
    x = 0.0f;
  }
  return residual == nullptr ? x : ClampFinite(x + residual[i]);
}

// c of the element, after a first pass has left it in the residual.
float Compensated(const float* input, const float* residual, size_t i) {
  if (residual != nullptr) return residual[i];
  return IsFinite(input[i]) ? input[i] : 0.0f;
}

// --- plain vectors

void Scale(float factor, float* values, size_t n) {
  for (size_t i = 0; i < n; ++i) values[i] *= factor;
}

void AddScaled(const float* from, float factor, float* values, size_t n) {
  for (size_t i = 0; i < n; ++i) values[i] += factor * from[i];
}

bool AllFinite(const float* values, size_t n) {
  bool finite = true;
  for (size_t i = 0; i < n; ++i) finite &= IsFinite(values[i]);
  return finite;
}

bool CompensateAll(const float* input, float* residual, size_t n) {
  bool nonfinite = false;
  for (size_t i = 0; i < n; ++i) residual[i] = Compensate(input, residual, i, nonfinite);
  return nonfinite;
}

// --- elements by themselves

struct Fp32 {
  using Wire = float;
  static Wire Encode(float x) { return x; }
  static float Decode(Wire x) { return x; }
};
struct Fp16 {
  using Wire = uint16_t;
  static Wire Encode(float x) { return ToFp16(x); }
  static float Decode(Wire x) {
    return (x & 0x7c00u) == 0x7c00u ? std::numeric_limits<float>::infinity() : FromFp16(x);
  }
};
struct Bf16 {
  using Wire = uint16_t;
  static Wire Encode(float x) { return ToBf16(x); }
  static float Decode(Wire x) { return FromBf16(x); }
};

template <typename Format>
bool EncodeElementsAs(const float* input, float* residual, size_t n, std::byte* out) {
  bool nonfinite = false;
  for (size_t i = 0; i < n; ++i) {
    const float c = Compensate(input, residual, i, nonfinite);
    const typename Format::Wire coded = Format::Encode(c);
    wire::Store(out + i * sizeof(coded), coded);
    if (residual != nullptr) residual[i] = c - Format::Decode(coded);
  }
  return nonfinite;
}

bool EncodeElements(ElementFormat format, const float* input, float* residual, size_t n, std::byte* out) {
  switch (format) {
    case ElementFormat::kFp32:
      return EncodeElementsAs<Fp32>(input, residual, n, out);
    case ElementFormat::kFp16:
      return EncodeElementsAs<Fp16>(input, residual, n, out);
    case ElementFormat::kBf16:
      return EncodeElementsAs<Bf16>(input, residual, n, out);
  }
  return false;
}

// out[i] <- start + sum over peers of term(peer, i).
template <typename Term>
void Accumulate(size_t peers, Start start, float* out, size_t n, const Term& term) {
  if (start == Start::kAssign || start == Start::kStream) {
    for (size_t i = 0; i < n; ++i) out[i] = term(0, i);
    return;
  }
  if (start != Start::kAdd) std::fill_n(out, n, 0.0f);
  for (size_t p = 0; p < peers; ++p) {
    for (size_t i = 0; i < n; ++i) out[i] += term(p, i);
  }
}

template <typename Format>
bool DecodeElementsAs(const Peers& peers, float weight, Start start, float* out, size_t n) {
  using Wire = typename Format::Wire;
  bool finite = true;
  Accumulate(peers.count, start, out, n, [&](size_t p, size_t i) {
    const float decoded = Format::Decode(wire::Load<Wire>(peers.data[p] + i * sizeof(Wire)));
    finite &= IsFinite(decoded);
    return weight * decoded;
  });
  return finite;
}

bool DecodeElements(ElementFormat format, const Peers& peers, float weight, Start start, float* out,
                    size_t n) {
  switch (format) {
    case ElementFormat::kFp32:
      return DecodeElementsAs<Fp32>(peers, weight, start, out, n);
    case ElementFormat::kFp16:
      return DecodeElementsAs<Fp16>(peers, weight, start, out, n);
    case ElementFormat::kBf16:
      return DecodeElementsAs<Bf16>(peers, weight, start, out, n);
  }
  return false;
}

// --- onebit

// The sum of kernels.h over c(i, nonfinite), element by element.
template <typename Value>
Sum SumOf(wire::ScaleNorm norm, size_t n, const Value& value) {
  Sum sum;
  for (size_t chunk = 0; chunk < n; chunk += kSumChunk) {
    std::array<double, kLanes> lanes{};
    const size_t end = std::min(n, chunk + kSumChunk);
    for (size_t i = chunk; i < end; ++i) {
      const double x = value(i, sum.nonfinite);
      lanes[i % kLanes] += norm == wire::ScaleNorm::kL1 ? std::fabs(x) : x * x;
    }
    for (size_t half = kLanes / 2; half > 0; half /= 2) {
      for (size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    }
    sum.value += lanes[0];
  }
  return sum;
}

Sum OneBitSum(wire::ScaleNorm norm, const float* input, float* residual, size_t n) {
  return SumOf(norm, n, [&](size_t i, bool& nonfinite) {
    const float c = Compensate(input, residual, i, nonfinite);
    if (residual != nullptr) residual[i] = c;
    return c;
  });
}

Sum OneBitDefer(wire::ScaleNorm norm, float deferred, const float* input, const float* before,
                float* residual, size_t n, std::byte* bits) {
  std::fill_n(bits, (n + 7) / 8, std::byte{0});
  return SumOf(norm, n, [&](size_t i, bool& nonfinite) {
    if (residual != nullptr) residual[i] = before[i] - (before[i] < 0.0f ? -deferred : deferred);
    const float c = Compensate(input, residual, i, nonfinite);
    if (residual != nullptr) residual[i] = c;
    if (c < 0.0f) bits[i / 8] |= std::byte{1} << (i % 8);
    return c;
  });
}

void OneBitEncode(float scale, const float* input, float* residual, size_t n, std::byte* bits) {
  for (size_t byte = 0; byte < n; byte += 8) {
    uint32_t packed = 0;
    for (size_t i = byte; i < std::min(n, byte + 8); ++i) {
      const float c = Compensated(input, residual, i);
      const bool negative = c < 0.0f;
      packed |= uint32_t{negative} << (i - byte);
      if (residual != nullptr) residual[i] = c - (negative ? -scale : scale);
    }
    bits[byte / 8] = static_cast<std::byte>(packed);
  }
}

void OneBitDecode(const Peers& bits, const float* scales, Start start, float* out, size_t n) {
  Accumulate(bits.count, start, out, n, [&](size_t p, size_t i) {
    const uint32_t negative = (std::to_integer<uint32_t>(bits.data[p][i / 8]) >> (i % 8)) & 1;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(scales[p]) ^ (negative << 31));
  });
}

// --- quantize

void FindRange(const float* input, const float* residual, size_t n, Range* most) {
  Range range{std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), false, true};
  for (size_t i = 0; i < n; ++i) {
    const float c = Compensate(input, residual, i, range.nonfinite);
    range.plain &= IsFinite(residual == nullptr ? input[i] : input[i] + residual[i]);
    range.low = std::min(range.low, c);
    range.high = std::max(range.high, c);
  }
  *most = range;
}

// The random number of a row and lane.
uint32_t RandomFraction(const Quantizer& quantizer, uint64_t row, size_t lane) {
  uint32_t x = RandomWord(quantizer.key, static_cast<uint32_t>(row / kRandomRows * kLanes + lane));
  for (uint64_t pair = row % kRandomRows / 2; pair > 0; --pair) x = NextRandom(x);
  return row % 2 == 0 ? x & kFractionMask : x >> (32 - kFractionBits);
}

void QuantizeEncode(const Quantizer& quantizer, const float* input, const float* before, float* residual,
                    size_t n, LaneStream& stream) {
  const float levels = static_cast<float>(quantizer.greatest_code);
  for (size_t begin = 0; begin < n; begin += kLanes) {
    const uint64_t row = quantizer.row + begin / kLanes;
    std::array<uint32_t, kLanes> codes{};
    for (size_t i = begin; i < std::min(n, begin + kLanes); ++i) {
      const float c = residual == nullptr || quantizer.compensated ? Compensated(input, residual, i)
                                                                   : input[i] + before[i];
      const float scaled = (c - quantizer.minimum) * quantizer.inverse;
      float level;
      if (quantizer.stochastic) {
        const uint32_t fixed = std::bit_cast<uint32_t>(scaled + kFixedPoint);
        const uint32_t sum = fixed + RandomFraction(quantizer, row, i - begin);
        level = std::bit_cast<float>(sum & ~kFractionMask) - kFixedPoint;
      } else {
        level = std::min(std::max(scaled, 0.0f), levels) + kRoundToInteger - kRoundToInteger;
      }
      codes[i - begin] = static_cast<uint32_t>(level);
      if (residual != nullptr) residual[i] = c - (quantizer.minimum + level * quantizer.unit);
    }
    for (size_t l = 0; l < kLanes; ++l) stream.word[l] |= codes[l] << stream.fill;
    stream.fill += quantizer.bits;
    if (stream.fill < 32) continue;
    std::memcpy(stream.out, stream.word, sizeof(stream.word));
    stream.out += sizeof(stream.word);
    stream.fill -= 32;
    // What of the codes did not fit; a shift by all of their bits gives 0.
    for (size_t l = 0; l < kLanes; ++l) stream.word[l] = codes[l] >> (quantizer.bits - stream.fill);
  }
}

void QuantizeDecode(uint32_t bits, const Peers& streams, const float* minimum, const float* unit,
                    float weight, size_t row, Start start, float* out, size_t n) {
  const uint32_t mask = (1u << bits) - 1;
  Accumulate(streams.count, start, out, n, [&](size_t p, size_t i) {
    const size_t bit = (row + i / kLanes) * bits;
    const std::byte* words = streams.data[p] + (bit / 32 * kLanes + i % kLanes) * 4;
    uint32_t code = wire::Load<uint32_t>(words) >> (bit % 32);
    if (bit % 32 + bits > 32) code |= wire::Load<uint32_t>(words + kLanes * 4) << (32 - bit % 32);
    return weight * (minimum[p] + static_cast<float>(code & mask) * unit[p]);
  });
}

// --- powersgd

void Expand(const FactorShape& shape, const float* left, const float* right, float weight, Start start,
            float* out) {
  for (size_t i = shape.skip_first; i < shape.end_row(); ++i) {
    float* row = out + i * shape.columns;
    for (size_t j = 0; j < shape.columns; ++j) {
      float sum = left[i] * right[j];
      for (size_t k = 1; k < shape.rank; ++k) {
        sum += left[k * shape.rows + i] * right[k * shape.columns + j];
      }
      row[j] = start == Start::kAdd ? row[j] + weight * sum : weight * sum;
    }
  }
}

bool ProjectRows(const FactorShape& shape, const Factors& off, const float* input, float* residual,
                 const float* right, float* left) {
  bool nonfinite = false;
  if (off.left != nullptr) Expand(shape, off.left, off.right, -1.0f, Start::kAdd, residual);
  for (size_t i = shape.skip_first; i < shape.end_row(); ++i) {
    const float* row = input + i * shape.columns;
    float* c = residual + i * shape.columns;
    for (size_t j = 0; j < shape.columns; ++j) c[j] = Compensate(row, c, j, nonfinite);
    for (size_t k = 0; k < shape.rank; ++k) {
      float sum = 0.0f;
      for (size_t chunk = 0; chunk < shape.columns; chunk += kSumChunk) {
        std::array<float, kLanes> lanes{};
        for (size_t j = chunk; j < std::min(shape.columns, chunk + kSumChunk); ++j) {
          lanes[j % kLanes] += c[j] * right[k * shape.columns + j];
        }
        for (size_t half = kLanes / 2; half > 0; half /= 2) {
          for (size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
        }
        sum += lanes[0];
      }
      left[k * shape.rows + i] = sum;
    }
  }
  return nonfinite;
}

void ProjectColumns(const FactorShape& shape, const float* matrix, const float* left, float* right,
                    size_t first, size_t last) {
  for (size_t k = 0; k < shape.rank; ++k) {
    const float* p = left + k * shape.rows;
    float* q = right + k * shape.columns;
    std::fill(q + first, q + last, 0.0f);
    const auto product = [&](size_t i, size_t j) { return matrix[i * shape.columns + j] * p[i]; };
    size_t i = 0;
    for (; i + 4 <= shape.rows; i += 4) {
      for (size_t j = first; j < last; ++j) {
        q[j] += (product(i, j) + product(i + 1, j)) + (product(i + 2, j) + product(i + 3, j));
      }
    }
    for (; i < shape.rows; ++i) {
      for (size_t j = first; j < last; ++j) q[j] += product(i, j);
    }
  }
}

// --- dgc

// Moves u of one element and returns what is sent.
float Move(const Momentum& rule, float gradient, size_t i, bool& nonfinite) {
  float local = rule.scale * gradient;
  if (rule.parameter != nullptr) local += rule.decay * rule.parameter[i];
  const float decayed = rule.momentum * rule.u[i];
  const float next = rule.nesterov ? rule.momentum * (rule.u[i] + local) : decayed + local;
  const float sent = rule.nesterov ? next + local : next;
  const bool good = IsFinite(sent);
  nonfinite |= !good;
  rule.u[i] = good ? next : decayed;
  return good ? sent : decayed;
}

bool AddMomentum(const Momentum& rule, const float* gradient, float* sent, size_t n) {
  bool nonfinite = false;
  for (size_t i = 0; i < n; ++i) {
    const float x = Move(rule, gradient[i], i, nonfinite);
    if (sent != nullptr) sent[i] = x;
  }
  return !nonfinite;
}

// --- topk

Kernels::Collected Collect(const Kernels::Gathered& from, size_t n, uint32_t first, float threshold,
                           uint32_t* indices, float* values, size_t capacity) {
  Kernels::Collected collected;
  for (size_t i = 0; i < n; ++i) {
    float c;
    if (from.momentum != nullptr) {
      c = ClampFinite(Move(*from.momentum, from.input[i], i, collected.nonfinite) + from.residual[i]);
    } else if (from.compensated) {
      c = Compensated(from.input, from.residual, i);
    } else {
      c = Compensate(from.input, from.residual, i, collected.nonfinite);
    }
    if (from.residual != nullptr) from.residual[i] = c;
    if (!(std::fabs(c) >= threshold)) continue;
    if (collected.count < capacity) {
      indices[collected.count] = first + static_cast<uint32_t>(i);
      values[collected.count] = c;
    }
    ++collected.count;
  }
  return collected;
}

}  // namespace

const Kernels& ScalarKernels() {
  static constexpr Kernels kTable = {
      .name = "scalar",
      .scale = Scale,
      .add_scaled = AddScaled,
      .all_finite = AllFinite,
      .stream_zeros = [](float* out, size_t n) { std::fill_n(out, n, 0.0f); },
      .compensate = CompensateAll,
      .encode_elements = EncodeElements,
      .decode_elements = DecodeElements,
      .onebit_sum = OneBitSum,
      .onebit_encode = OneBitEncode,
      .onebit_defer = OneBitDefer,
      .onebit_decode = OneBitDecode,
      .range = FindRange,
      .quantize_encode = QuantizeEncode,
      .quantize_decode = QuantizeDecode,
      .project_rows = ProjectRows,
      .project_columns = ProjectColumns,
      .expand = Expand,
      .add_momentum = AddMomentum,
      .collect = Collect,
  };
  return kTable;
}

}  // namespace terse::kernels
