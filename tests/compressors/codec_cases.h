// SPDX-License-Identifier: Apache-2.0
//
// What the tests of codecs share: every row of compressors.def with the parameters worth testing, the
// vectors worth encoding, and a harness that runs one codec in guarded memory.
#ifndef TERSE_TESTS_COMPRESSORS_CODEC_CASES_H_
#define TERSE_TESTS_COMPRESSORS_CODEC_CASES_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compressors/compressor.h"

namespace terse::testing {

struct CodecCase {
  const Compressor* codec = nullptr;
  wire::CodecParams params;
  std::string name;  // letters, digits and _: "quantize_bits4_block512_stochastic"

  friend void PrintTo(const CodecCase& test_case, std::ostream* out) { *out << test_case.name; }
};

// Every row of compressors.def with each of its interesting parameters. A row that this file has no
// parameters for is there with the defaults.
std::vector<CodecCase> AllCases();

struct NamedVector {
  std::string name;
  std::vector<float> values;
};

// Gradients as they come and as they should not come: normal, heavy-tailed, sparse, constant, zero,
// ties, denormal, huge, with NaN and Inf, of sizes around every boundary of lanes and blocks.
std::vector<NamedVector> AllVectors();

// n values from a normal distribution, of a fixed seed.
std::vector<float> Normal(size_t n, uint32_t seed);

// Memory that is aligned as the contract asks, with guard bytes on both sides.
class GuardedBytes {
 public:
  explicit GuardedBytes(size_t size);
  GuardedBytes(GuardedBytes&&) = default;
  GuardedBytes& operator=(GuardedBytes&&) = default;
  wire::MutableBytes bytes() { return {data_, size_}; }
  bool Intact() const;

 private:
  std::vector<std::byte> memory_;
  std::byte* data_;
  size_t size_;
};

// One tensor under one codec: its residual, its state, and what it last sent. A linear codec goes through
// all its rounds with this rank alone; the tensor is of MatrixShape(n) then.
class Tensor {
 public:
  // Shards begin at each multiple of `shard` (0: one shard); rounded up to the codec's block.
  Tensor(const CodecCase& test_case, size_t n, size_t shard = 0, bool error_feedback = true);

  // Encodes and checks what must hold of every encoding: shards within their bounds and exact where the
  // codec has a fixed size, guards intact, the residual finite. Failures go to GoogleTest.
  EncodeResult Encode(const std::vector<float>& input, const RandomKey& random = {});

  // What all ranks get of the last encoding.
  std::vector<float> Decoded() const;

  const std::vector<std::vector<std::byte>>& payloads() const { return payloads_; }
  // The residual made plain, which changes nothing of what comes.
  std::vector<float>& residual();
  const std::vector<Shard>& shards() const { return shards_; }
  size_t payload_bytes() const;

 private:
  EncodeResult EncodeRounds(const std::vector<float>& input, const RandomKey& random);

  CodecCase case_;
  size_t n_;
  std::vector<Shard> shards_;
  std::vector<float> residual_;
  std::vector<std::byte> state_;
  std::vector<std::byte> deferred_;  // linear codecs: a payload that is still in the residual
  std::vector<std::vector<std::byte>> payloads_;
};

// Decodes bytes that nobody vouches for, claimed to be n elements. Whatever they are, the codec returns,
// stays within its output, refuses with DATA_LOSS or yields finite numbers, and says the same of the
// support. Returns in words what of that does not hold. For tests and fuzzers alike.
std::optional<std::string> BrokenPromise(const CodecCase& test_case, wire::Bytes payload, size_t n);

// c of the contract, element by element.
std::vector<float> Compensated(const std::vector<float>& input, const std::vector<float>& residual);

// Where decoded and kept do not make up c by the rule of the contract, in words.
std::optional<std::string> NotConserved(const CodecCase& test_case, const std::vector<float>& c,
                                        const std::vector<float>& decoded,
                                        const std::vector<float>& residual);

// The bits of each float: equality with the sign of zero.
std::vector<uint32_t> Bits(const std::vector<float>& values);

}  // namespace terse::testing

#endif  // TERSE_TESTS_COMPRESSORS_CODEC_CASES_H_
