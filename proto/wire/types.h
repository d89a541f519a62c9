// SPDX-License-Identifier: Apache-2.0
//
// The small closed sets that every party names the same way: element types, compressors, methods,
// exchanges. Their numbers are on the wire and in saved state, so a number is never reused and never
// changes meaning (docs/wire_format.md).
#ifndef TERSE_PROTO_WIRE_TYPES_H_
#define TERSE_PROTO_WIRE_TYPES_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace terse::wire {

// Element type of a gradient as the job holds it. The engine works in fp32.
enum class DType : uint8_t { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

// A codec. The numbers are those of compressors/compressors.def.
enum class Codec : uint8_t {
  kNone = 0,
  kFp16 = 1,
  kBf16 = 2,
  kTopK = 3,
  kOneBit = 4,
  kQuantize = 5,
  kPowerSgd = 6,
};

// The rule that turns local gradients into what the optimizer gets.
enum class Method : uint8_t { kAllreduce = 0, kDgc = 1, kOneBitAdam = 2 };

// The collective schedule of one tensor.
enum class Exchange : uint8_t {
  kDense = 0,               // the transport's native all-reduce of plain floats
  kDeterministicDense = 1,  // plain floats, summed in rank order (scatter, reduce, all-gather)
  kAllGather = 2,           // every rank receives every payload
  kScatterReduceAllGather = 3,
  kSparseReduce = 4,
  kLowRank = 5,
};

enum class Reduce : uint8_t { kMean = 0, kSum = 1 };

// How a vector of memory belongs to the ranks, which decides what becomes of it when their number changes.
enum class MemoryRole : uint8_t {
  kOwn = 0,         // each rank has its own; with the weight of its gradient it is part of a sum over ranks
  kReplicated = 1,  // equal on all ranks
  kShard = 2,       // rank r has the elements of shard r, in units of the result
};

// Bytes of one element; 0 for a number that names no type.
size_t DTypeSize(DType dtype);

// Lower-case names as configuration, plans and reports spell them ("float32", "topk", "onebit_adam",
// "all-gather"). The parsers accept exactly those.
std::string_view Name(DType dtype);
std::string_view Name(Codec codec);
std::string_view Name(Method method);
std::string_view Name(Exchange exchange);
std::string_view Name(MemoryRole role);
std::optional<Codec> ParseCodec(std::string_view name);
std::optional<Method> ParseMethod(std::string_view name);

}  // namespace terse::wire

#endif  // TERSE_PROTO_WIRE_TYPES_H_
