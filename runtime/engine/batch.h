// SPDX-License-Identifier: Apache-2.0
//
// Runs one agreed batch of tensors through method, codec and exchange. All ranks hold the same batch in
// the same order when Run is called.
#ifndef TERSE_RUNTIME_ENGINE_BATCH_H_
#define TERSE_RUNTIME_ENGINE_BATCH_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compressors/workers.h"
#include "proto/wire/config.h"
#include "proto/wire/frame.h"
#include "runtime/engine/adaptation.h"
#include "runtime/engine/buffer.h"
#include "runtime/engine/exchange/entries.h"
#include "runtime/engine/exchange/sparse_part.h"
#include "runtime/engine/position_set.h"
#include "runtime/engine/tensor.h"
#include "runtime/engine/trace.h"
#include "transport/transport.h"

namespace terse::engine {

// One tensor's part in a batch. Buffers hold `elements` of the tensor's dtype and are the caller's.
struct Call {
  uint32_t tensor = 0;
  const void* send = nullptr;  // null: no gradient on this rank, counts as zero
  void* recv = nullptr;
  // recv holds fp32 whatever the tensor's dtype, and the loss scale is left out (optimizer updates).
  bool float_result = false;
  const float* parameter = nullptr;  // what the result updates; known to terse_optimizer_step only
};

// What a batch needs to know of the group besides its tensors.
struct BatchContext {
  uint64_t step = 0;
  uint32_t plan_version = 0;
  double loss_scale = 1.0;
  bool exact = false;  // everything goes dense
  // Who measures gradients, and the table that it needs for that; null: nobody.
  Adaptation* adaptation = nullptr;
  absl::Span<const std::unique_ptr<Tensor>> table = {};
};

class BatchRunner {
 public:
  // Everything outlives the runner.
  BatchRunner(const wire::Config& config, transport::Group* group, std::chrono::milliseconds patience,
              const TimeSource& time)
      : config_(config), group_(group), patience_(patience), trace_{.time = &time} {}

  // Where what is done is noted; null: nowhere. Outlives the runner.
  void SetTrace(Trace* trace) { trace_.trace = trace; }

  // What kernels are divided among; null: nobody. Outlives the runner.
  void SetWorkers(Workers* workers) { workers_ = workers; }

  // One tensor's part in the batch under way.
  struct Item {
    Tensor* tensor = nullptr;
    const Call* call = nullptr;
    wire::CodecParams params;
    bool nonfinite = false;  // this rank's gradient was, or some rank's frame says so
    bool cleared = false;    // the result is 0 already
    // All-gather: where the result may not be 0, ascending; null: not looked for.
    const std::vector<uint32_t>* support = nullptr;
    size_t bytes = 0;      // handed to the transport for this tensor
    double before_ms = 0;  // the tensor's times before this exchange
  };

  // calls[i] belongs to tensors[i]; ascending ids. On an error nothing of a gradient is lost: what was
  // encoded is back in the residuals. Every error but INVALID_ARGUMENT leaves the group unusable.
  absl::Status Run(const BatchContext& context, absl::Span<const Call> calls,
                   absl::Span<Tensor* const> tensors);

  // Nothing will be probed for a while: gives back what memory that took.
  void EndProbes() { probe_.Release(); }

 private:
  friend class ScatterReduce;

  // exchange/dense.cc
  absl::Status RunDense(const BatchContext& context, absl::Span<Item> items);
  absl::Status DenseOne(const BatchContext& context, Item* item);
  absl::Status DenseBucket(const BatchContext& context, absl::Span<Item> items, size_t elements);
  absl::Status DenseDouble(Item* item);
  absl::Span<const float> DenseInput(const BatchContext& context, Item* item);
  void FinishDense(const BatchContext& context, Item* item, absl::Span<float> result);
  template <typename T>
  absl::Status SumDense(const T* in, T* out, size_t n);
  template <typename T>
  absl::Status SumInRankOrder(const T* in, T* out, size_t n);

  // How many of the items, from the first, go together, and their elements. The same on all ranks: it follows
  // from the agreed batch alone.
  static size_t Fused(absl::Span<const Item> items, size_t* elements);

  // exchange/probe.cc
  // Times a dense exchange of what has just been exchanged otherwise. No result and no memory changes.
  absl::Status Probe(const BatchContext& context, absl::Span<Item> items);
  absl::Status ProbeFused(const BatchContext& context, absl::Span<Item> items, size_t elements);
  // Whether the result was finite.
  bool FinishProbe(const BatchContext& context, const Item& item, absl::Span<float> result);

  // exchange/all_gather.cc
  class AllGather;
  absl::Status RunAllGather(const BatchContext& context, absl::Span<Item> items);
  // The positions that the payloads have together: for the count of how many these are, and for a method that
  // wants to know them.
  static bool CountsBuildUp(const Item& item);
  static bool WantsSupport(const Item& item);
  static bool WantsUnion(const Item& item) { return CountsBuildUp(item) || WantsSupport(item); }
  absl::Status UnitePositions(Item* item, absl::Span<const wire::Bytes> payloads);

  // exchange/sparse_reduce.cc
  class SparseReduce;
  absl::Status RunSparseReduce(const BatchContext& context, absl::Span<Item> items);

  // exchange/scatter_reduce.cc
  absl::Status RunScatterReduce(const BatchContext& context, absl::Span<Item> items);

  // exchange/low_rank.cc
  absl::Status RunLowRank(const BatchContext& context, absl::Span<Item> items);
  // The memory of a tensor's rounds; `work` lends a residual to a tensor that keeps none.
  RoundArgs PrepareRounds(const BatchContext& context, Item* item, absl::Span<float>* work);
  absl::Status BeginRound(Item* item, RoundArgs* args, size_t round, absl::Span<float> floats);
  absl::Status EndRound(const BatchContext& context, Item* item, RoundArgs* args, size_t round,
                        absl::Span<const float> sum);

  // exchange/common.cc
  absl::Span<const float> StageIn(const BatchContext& context, const Item& item, Buffer<float>* staging);
  // What the method makes of the job's gradient: the vector to send. With `momentum`, *momentum is not
  // null where the codec is to add it (TensorMethod::BeforeMomentum).
  absl::Span<const float> Before(const BatchContext& context, Item* item, bool dense,
                                 const kernels::Momentum** momentum = nullptr);
  // Where the item's fp32 result is put together: recv itself where it can be, else `staging`.
  static bool ResultIsDirect(const Item& item);
  absl::Span<float> ResultSpan(const Item& item, Buffer<float>* staging);
  // Method and codec: what the codec is to encode. What it makes of it is kept for ResolvePending; `closing`
  // is what Close has written.
  EncodeArgs BeginEncode(const BatchContext& context, Item* item);
  // A part's payload is kept where it is sent from, in `memory` of SentMemory().
  void KeepSent(Item* item, const Shard& shard, const std::shared_ptr<const Buffer<std::byte>>& memory);
  void EndEncode(Item* item, wire::Bytes closing);
  // Memory that no tensor keeps any more, for so many bytes.
  std::shared_ptr<Buffer<std::byte>> SentMemory(size_t bytes);
  // All of that for a gather codec, whose one shard is the whole tensor. `early`: as in EncodeArgs;
  // `selected`, if not null, gets the payload's entries.
  absl::Status EncodeWhole(const BatchContext& context, Item* item, Shard* shard,
                           EarlyEntries* early = nullptr, Entries* selected = nullptr);
  // The same of a payload that stays here, and its entries.
  absl::Status EncodeEntries(const BatchContext& context, Item* item, EarlyEntries* early, Entries* selected);
  // The entries of a gather codec's payload of n elements, at most so many; else DATA_LOSS.
  static absl::Status Unpack(const Item& item, wire::Bytes payload, size_t n, size_t most, Entries* entries);
  // For the second compression of a piece of the own shard, whose sum is given. Keeps what ResolvePending
  // needs to take it back.
  EncodeArgs ServerArgs(Item* item, size_t piece, absl::Span<const float> sum);
  // `result` (ResultSpan's) -> recv, in the job's type, with zeros where the mask leaves elements out.
  void StageOut(const BatchContext& context, const Item& item, absl::Span<const float> result);
  RandomKey RandomOf(const Tensor& tensor, uint32_t stage) const;
  void Finish(const BatchContext& context, Item* item, absl::Span<float> result);
  void CountCall(const Item& item);
  // What each rank of a dense ring all-reduce sends: 2 (N - 1) / N of the vector.
  size_t RingBytes(size_t elements, size_t element_bytes) const;
  absl::Status WaitFor(transport::OperationOr operation);
  wire::FrameHeader HeaderOf(const BatchContext& context, const Item& item, const Shard& shard) const;
  // Appends a frame, whose payload already lies behind the header's place, to the `*size` bytes of a message.
  void Seal(const BatchContext& context, const Item& item, const Shard& shard, wire::MutableBytes message,
            size_t* size) const;
  // What is wrong with what a rank has sent: DATA_LOSS.
  absl::Status From(size_t r, const absl::Status& status) const;
  // The payload of the next frame of `bytes`, which must be this item's shard.
  absl::StatusOr<wire::Bytes> TakeExpected(const BatchContext& context, Item* item, const Shard& shard,
                                           int from, wire::Bytes* bytes);
  // DATA_LOSS when something is left of what a rank has sent.
  absl::Status CheckAtEnd(absl::Span<const wire::Bytes> rest) const;
  // Encoding and decoding of the items' tensors so far, in ms.
  static double Worked(absl::Span<const Item> items);
  // Divides a batch's time on the wire among its tensors by their bytes.
  void ShareTime(absl::Span<Item> items, double ms);
  float Weight() const;

  const wire::Config& config_;
  transport::Group* group_;
  std::chrono::milliseconds patience_;
  Tracing trace_;
  Workers* workers_ = nullptr;
  // Reused from batch to batch.
  Buffer<float> gradient_;  // staged gradient
  Buffer<float> input_;     // what the method makes of it
  Buffer<float> output_;    // result before it is staged back
  Buffer<float> bucket_;    // fused small tensors
  Buffer<float> sum_;       // sum over ranks of a piece of the own shard
  Buffer<float> probe_;     // results of probes, which nobody reads
  Buffer<float> work_;      // what linear codecs encode of tensors without error feedback
  Buffer<std::byte> scratch_;
  Buffer<std::byte> send_;
  std::vector<std::shared_ptr<Buffer<std::byte>>> sent_;  // of SentMemory()
  Buffer<std::byte> receive_;
  Buffer<std::byte> results_;  // the owners' sums
  Buffer<uint32_t> positions_;
  PositionSet union_;
  std::vector<uint32_t> support_;
  GatherMemory gather_;
  std::vector<SparsePart> sparse_parts_;
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_BATCH_H_
