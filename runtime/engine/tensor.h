// SPDX-License-Identifier: Apache-2.0
//
// One registered tensor: its facts, its plan row, its memory, and what its last exchange left open until
// the step ends. Owned and used by the engine alone.
#ifndef TERSE_RUNTIME_ENGINE_TENSOR_H_
#define TERSE_RUNTIME_ENGINE_TENSOR_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "compressors/compressor.h"
#include "compressors/methods/method.h"
#include "proto/wire/plan.h"
#include "runtime/controller/policy/path_choice.h"
#include "runtime/engine/buffer.h"
#include "runtime/engine/convert.h"
#include "runtime/engine/mask.h"

namespace terse::engine {

// How many entries the ranks of exchanges by gather codecs selected together, and at how many positions.
struct BuildUp {
  uint64_t exchanges = 0;  // that were counted: every one by sparse reduce, few by all-gather
  uint64_t selected = 0;   // entries of all ranks in these
  uint64_t distinct = 0;   // their positions
  uint64_t accepted = 0;   // positions that were delivered
  uint64_t busiest = 0;    // entries that the owner with the most of them received; sparse reduce alone
};

// Totals since open. Bytes are those handed to the transport, headers included; times in ms.
struct TensorStats {
  uint64_t calls = 0;
  uint64_t nonfinite_calls = 0;
  uint64_t bytes_sent = 0;
  uint64_t dense_bytes = 0;  // what the dense ring would have sent for the same calls
  double encode_ms = 0;
  double exchange_ms = 0;
  double decode_ms = 0;
  BuildUp build_up;

  double Milliseconds() const { return encode_ms + exchange_ms + decode_ms; }
};

// `dense_when_faster`: what is known of a tensor that the plan compresses.
struct PathTiming {
  PathTiming(double worth, size_t elements) : choice(worth, policy::FirstDensePart(elements)) {}

  policy::PathChoice choice;
  policy::PathTimes times;  // of this rank, of the last exchange
  bool untold = false;      // the other ranks have yet to hear of an exchange's times
  uint64_t taken = 0;       // the choice's revision that is in force
  double density = 0;       // that the choice is for; 0: nothing has been exchanged yet
  double probe_ms = 0;      // total of dense exchanges that were made for their times alone

  // A dense exchange is to be timed beside the tensor's own.
  bool probes() const { return choice.trying() && !untold; }
};

struct Tensor {
  uint32_t id = 0;
  std::string name;
  wire::DType dtype = wire::DType::kFloat32;
  std::vector<int64_t> shape;
  size_t job_elements = 0;  // of the job's buffers
  size_t elements = 0;      // of exchange and memory: those that the mask lets take part
  Mask mask;
  Mask next_mask;              // what the job asked for last, in force once all ranks turn out to have
  uint64_t steps_outside = 0;  // that the job told of and the ranks have yet to compare
  int world_size = 1;          // of the group

  wire::PlanRow planned;               // the plan's; `row` is that, or dense where dense is faster
  std::unique_ptr<PathTiming> timing;  // null: the tensor goes as planned
  wire::PlanRow row;                   // by SetRow
  const Compressor* codec = nullptr;   // of the row
  std::unique_ptr<TensorMethod> method;
  std::unique_ptr<ParameterUpdate> update;  // terse_optimizer_step only
  Buffer<float> result;                     // terse_optimizer_step only

  std::vector<std::byte> worker_state;  // the codec's, for this rank's gradient
  std::vector<std::byte> server_state;  // the codec's, for the second compression of each piece of the shard
  FloatVector server_residual;          // error of the second compression, own shard
  // Linear codecs: the last exchange's payload, where it is still in the residual (RoundArgs::deferred).
  std::vector<std::byte> deferred;

  // What the running step's exchange sent, until terse_step says whether it was applied.
  struct Pending {
    bool active = false;
    bool dense = false;
    bool nonfinite = false;  // some rank's gradient was: the result was withheld, so nothing was applied
    wire::CodecParams params;
    // What the first compression made: `payloads`, of one shard, the whole tensor. After a scatter-reduce, of
    // each shard what begins at its `out`, where it was sent from, in `sent`. There it is not to be written:
    // after a failure it may still be on its way. `closing` is yet to complete it (Compressor::Complete).
    std::vector<Shard> shards;
    std::vector<std::byte> payloads;
    std::shared_ptr<const Buffer<std::byte>> sent;
    std::vector<std::byte> closing;
    std::vector<Excess> excess;  // of the result, beyond the caller's type; stays if applied
    // server_residual as it was before the exchange, once that has summed something: the two change places,
    // and the first server_moved elements of server_residual get their new values. The others have none:
    // where an exchange fails, ResolvePending brings the old ones. Of server_state, those of the same pieces.
    FloatVector server_before;
    size_t server_moved = 0;
    std::vector<std::byte> server_state_before;
  } pending;

  bool one_rank = false;        // dense only because there is no other rank
  bool last_finite = true;      // the last result was finite
  bool was_compressed = false;  // by this plan or an earlier one: a residual may wait, on some rank
  uint64_t applied = 0;         // exchanges whose step was applied
  uint64_t exchanges = 0;       // counter for random numbers: grows with every exchange, applied or not
  TensorStats stats;

  // Sets row, codec and what the method knows of them. The row has been checked (Engine::CheckRow).
  void SetRow(const wire::PlanRow& next);

  // What the method is told.
  TensorFacts Facts() const {
    return {.elements = elements,
            .dense = row.codec == wire::Codec::kNone,
            .error_feedback = row.error_feedback,
            .one_rank = one_rank,
            .world_size = world_size};
  }

  // The elements of rank r's shard in a scatter-reduce exchange over `size` ranks.
  Shard ShardOf(const wire::CodecParams& params, int r, int size) const {
    const size_t align = codec->BlockElements(params);
    const size_t blocks = (elements + align - 1) / align;
    const size_t each = (blocks + static_cast<size_t>(size) - 1) / static_cast<size_t>(size) * align;
    Shard shard;
    shard.begin = std::min(elements, static_cast<size_t>(r) * each);
    shard.end = std::min(elements, shard.begin + each);
    return shard;
  }

  // Elements of a shard that are encoded, sent and summed together: all ranks' shards have their k-th piece
  // at the same distance from their begin.
  size_t PieceElements(const wire::CodecParams& params) const;
  size_t Pieces(const wire::CodecParams& params, int size) const;
  Shard PieceOf(const wire::CodecParams& params, int r, int size, size_t piece) const;
  // Of what the codec knows only when the last piece has been encoded: 0 where one piece is all there is.
  size_t LateBytes(const wire::CodecParams& params, int size) const {
    return Pieces(params, size) > 1 ? codec->ClosingBytes(params) : 0;
  }

  // Makes the residuals plain (Compressor::Materialize); whoever looks at them or adds to them does so first.
  void Materialize();
  // The same of an owner's error: `error` begins with the first piece, and so does `state`.
  void MaterializeServer(wire::MutableBytes state, absl::Span<float> error) const;
};

inline bool IsDense(wire::Exchange exchange) {
  return exchange == wire::Exchange::kDense || exchange == wire::Exchange::kDeterministicDense;
}

// Ends what the tensor's last exchange left open: returns what was not applied to the residuals (all of
// it when the result was withheld) and commits the method's state.
absl::Status ResolvePending(Tensor* tensor, double applied);

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_TENSOR_H_
