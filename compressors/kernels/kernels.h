// SPDX-License-Identifier: Apache-2.0
//
// The hot loops of the codecs, as a table of functions: one table per instruction set, filled by the
// scalar reference (scalar.cc) and, from one Highway source, by every SIMD target (simd.cc). All tables
// give the same bits: a sum has 16 lanes and a fixed tree whatever the width of a vector, and no product is
// fused with a sum but one that is exact.
//
// Pure functions over the caller's memory; no alignment is asked for. `residual` may be null (no error
// feedback). The compensated value c of an element is
//   input + residual          clamped to the finite range; just input without a residual
// where an input that is NaN or Inf counts as 0 and makes the function report nonfinite. Functions of
// two passes leave c in the residual after the first; the second ("Compensated...") takes it from there.
//
// Where there is a `before`, that is what is read of the old residual: the residual itself, or memory apart
// from it. The residual is then written around the caches, if it is at a multiple of 64 bytes, and EndStream
// follows.
#ifndef TERSE_COMPRESSORS_KERNELS_KERNELS_H_
#define TERSE_COMPRESSORS_KERNELS_KERNELS_H_

#include <cstddef>
#include <cstdint>

#include "proto/wire/plan.h"

namespace terse::kernels {

inline constexpr size_t kLanes = 16;       // lanes of sums, and of the quantizer's bit streams
inline constexpr size_t kSumChunk = 4096;  // elements whose lanes are added up by themselves
inline constexpr size_t kMaxPeers = 16;    // payloads that one call of a decoder takes

// What a decoder's sum starts from: nothing (out = w d, of one payload), the old value (out += w d), or +0.
// kStream and kStreamZero are kAssign and kZero with stores around the caches; other processors see them
// after EndStream. Where `out` is not at a multiple of 64 bytes, as what malloc() returns is not, results go
// by way of the L1 cache, so that whole lines can be written. kStreamZero is for at most kStreamPeers
// payloads.
enum class Start : uint8_t { kAssign, kAdd, kZero, kStream, kStreamZero };
inline constexpr size_t kStreamPeers = 4;
inline bool Streams(Start start) { return start == Start::kStream || start == Start::kStreamZero; }

// Vectors of more bytes than that are written around the caches: what was written first would have left them
// before it is read, and lines need not be loaded before they are written. (In a cache, streaming takes
// twice as long.)
inline constexpr size_t kStreamBytes = size_t{8} << 20;
inline bool BeyondCaches(size_t bytes) { return bytes > kStreamBytes; }

// Orders the streaming stores of this thread before all that it does afterwards.
void EndStream();

// How one element alone travels. kFp32 is verbatim.
enum class ElementFormat : uint8_t { kFp32, kFp16, kBf16 };

struct Sum {
  double value = 0;
  bool nonfinite = false;
};

// Least and greatest c. An empty range has low = +Inf, high = -Inf.
struct Range {
  float low = 0;
  float high = 0;
  bool nonfinite = false;
  bool plain = true;  // every c is just input + residual: nothing was not finite, nothing was clamped
};

// How the elements of one block become codes, and decode as minimum + code * unit. The unit is a bfloat16, so
// that its product with a code is exact, and rounded once with the minimum whether they are one instruction
// or two. With
//   scaled = (c - minimum) * inverse
// to nearest: scaled, at least 0, at most greatest_code, rounded to nearest even; stochastic: floor(scaled +
// r), scaled as a multiple of 2^-15 (to nearest even) and r a random one below 1.
struct Quantizer {
  float minimum = 0;
  float unit = 0;
  float inverse =
      0;  // 1 / unit, or 0 for unit 0; stochastic: less than 1 / unit, so that no code is too great
  uint32_t bits = 0;
  uint32_t greatest_code = 0;  // below 2^bits
  bool stochastic = false;     // all c are within the levels
  bool saturated = false;      // some c are not; to nearest then
  // c is in the residual already. Else it is just input + before (Range::plain), computed here.
  bool compensated = false;
  uint32_t key[2] = {0, 0};  // of the random numbers
  uint64_t row = 0;          // position of the block's first element in the tensor, in rows of kLanes
};

// The ranges of up to so many elements are looked for before their codes are made, which ask for the memory
// behind them.
inline constexpr size_t kRangeAhead = 1024;

// Sixteen bit streams side by side, the elements 16 j + l in stream l, least significant bit first, as
// words of 32 bits; the words of all lanes with one number lie together (64 bytes). Rows of 16 codes are
// appended; what does not yet fill the words stays in `word`.
struct LaneStream {
  uint32_t word[kLanes] = {};
  uint32_t fill = 0;         // bits in use in each of `word`
  std::byte* out = nullptr;  // where the next 64 bytes go
};

// A matrix, row after row, and its two factors: `left` has `rank` columns of `rows` floats, one after the
// other, `right` has `rank` columns of `columns` floats.
struct FactorShape {
  size_t rows = 0;
  size_t columns = 0;
  size_t rank = 0;
  // project_rows and expand: rows at the begin and at the end that others do.
  size_t skip_first = 0;
  size_t skip_last = 0;

  size_t end_row() const { return rows - skip_last; }
};

// A product, left transpose(right), of the rank of the shape it comes with; no product where left is null.
struct Factors {
  const float* left = nullptr;
  const float* right = nullptr;
};

// DGC's momentum (methods/dgc.h): with g = scale * gradient + decay * parameter, without the last product
// where there is no parameter,
//   plain      next = m u + g            sent = next
//   Nesterov   next = m (u + g)          sent = next + g
// u <- next, but m u where what is sent would not be finite; m u is then sent.
struct Momentum {
  float momentum = 0;  // m
  float scale = 1;
  float decay = 0;
  bool nesterov = false;
  const float* parameter = nullptr;  // or null
  float* u = nullptr;

  Momentum Behind(size_t elements) const {
    Momentum rest = *this;
    if (rest.parameter != nullptr) rest.parameter += elements;
    rest.u += elements;
    return rest;
  }
};

// Payloads to decode together: at most kMaxPeers.
struct Peers {
  const std::byte* data[kMaxPeers] = {};
  size_t count = 0;
};

struct Kernels {
  const char* name;  // "scalar", or the Highway target in lower case: "sse4", "avx2", "avx3"

  // --- plain vectors (vector.h wraps them)
  void (*scale)(float factor, float* values, size_t n);                          // v *= f
  void (*add_scaled)(const float* from, float factor, float* values, size_t n);  // v += f * from
  bool (*all_finite)(const float* values, size_t n);
  // out <- 0, around the caches; EndStream follows.
  void (*stream_zeros)(float* out, size_t n);

  // --- error feedback: residual <- c. Returns nonfinite.
  bool (*compensate)(const float* input, float* residual, size_t n);

  // --- one element by itself (none, fp16, bf16)
  // out <- c in `format`, rounded to nearest even and saturated; residual <- c - decoded. Returns nonfinite.
  bool (*encode_elements)(ElementFormat format, const float* input, float* residual, size_t n,
                          std::byte* out);
  // out <- start + sum over peers of weight * decoded. Returns false when a decoded value is not finite.
  bool (*decode_elements)(ElementFormat format, const Peers& peers, float weight, Start start, float* out,
                          size_t n);

  // --- onebit
  // The sum of |c| or of c^2: 16 fp64 lanes over each kSumChunk elements, lanes added as a tree (l and
  // l + 8, l + 4, l + 2, l + 1), chunks in order. Leaves c in the residual.
  Sum (*onebit_sum)(wire::ScaleNorm norm, const float* input, float* residual, size_t n);
  // Bit i (least significant first) of `bits` <- c < 0; residual <- c - (c < 0 ? -scale : scale). Writes
  // (n + 7) / 8 bytes.
  void (*onebit_encode)(float scale, const float* input, float* residual, size_t n, std::byte* bits);
  // Both at once, for a scale that is known only afterwards. With r = before - (before < 0 ? -deferred :
  // deferred), what the encoding before left: residual <- c of input and r; the sum and the bits are c's.
  Sum (*onebit_defer)(wire::ScaleNorm norm, float deferred, const float* input, const float* before,
                      float* residual, size_t n, std::byte* bits);
  // Adds bit ? -scales[p] : scales[p] for each peer p.
  void (*onebit_decode)(const Peers& bits, const float* scales, Start start, float* out, size_t n);

  // --- quantize
  // Writes nothing but the range (a result of two floats would be packed through memory, for each block).
  void (*range)(const float* input, const float* residual, size_t n, Range* range);
  // Appends the codes of a block; residual <- c - decoded. n is a multiple of 16 but for the last block.
  void (*quantize_encode)(const Quantizer& quantizer, const float* input, const float* before,
                          float* residual, size_t n, LaneStream& stream);
  // Adds weight * (minimum[p] + code * unit[p]) for each peer p, units being as in Quantizer; the codes start
  // at row `row` of the peers' streams, which lie at data[p] whole.
  void (*quantize_decode)(uint32_t bits, const Peers& streams, const float* minimum, const float* unit,
                          float weight, size_t row, Start start, float* out, size_t n);

  // --- powersgd
  // Takes `off` off the residual, as expand does with weight -1, and leaves c there; left <- c right. An
  // element of left is the sum over 16 fp32 lanes (by column mod 16) of each kSumChunk columns, lanes added
  // as a tree (as in onebit_sum), chunks in order. Returns nonfinite.
  bool (*project_rows)(const FactorShape& shape, const Factors& off, const float* input, float* residual,
                       const float* right, float* left);
  // Elements [first, last) of each column of right <- transpose(matrix) left. Rows in order, four together,
  // (0 + 1) + (2 + 3), the last ones singly.
  void (*project_columns)(const FactorShape& shape, const float* matrix, const float* left, float* right,
                          size_t first, size_t last);
  // out <- (out +) weight * (left transpose(right)), the rank's products added in order. Not kZero.
  void (*expand)(const FactorShape& shape, const float* left, const float* right, float weight, Start start,
                 float* out);

  // --- dgc
  // `sent` may be null. Returns false when something was not finite.
  bool (*add_momentum)(const Momentum& rule, const float* gradient, float* sent, size_t n);

  // --- topk
  struct Gathered {
    const float* input = nullptr;
    float* residual = nullptr;
    // Not null: the input is the gradient for this rule, and c is what it sends + residual, which is not
    // null.
    const Momentum* momentum = nullptr;
    bool compensated = false;  // c is already in the residual (or is the input)
  };
  struct Collected {
    size_t count = 0;
    bool nonfinite = false;
  };
  // Appends, in order, index (first + i) and value of every c with |c| >= threshold; stops storing, not
  // counting, at `capacity`. Leaves c in the residual.
  Collected (*collect)(const Gathered& from, size_t n, uint32_t first, float threshold, uint32_t* indices,
                       float* values, size_t capacity);
};

// Adding this to a float of 0 to 2^22 rounds it to an integer, which stands in the lowest bits of the sum.
inline constexpr float kRoundToInteger = 0x1.8p23f;

// Adding this to a float of 0 to 255 leaves 15 bits behind the point, the lowest of the sum.
inline constexpr float kFixedPoint = 0x1p8f;
inline constexpr int kFractionBits = 15;
inline constexpr uint32_t kFractionMask = (1u << kFractionBits) - 1;

}  // namespace terse::kernels

#endif  // TERSE_COMPRESSORS_KERNELS_KERNELS_H_
