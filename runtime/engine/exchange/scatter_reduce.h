// SPDX-License-Identifier: Apache-2.0
//
// Scatter-reduce-all-gather (SRA), for codecs that can encode a range by itself. Rank j owns shard j of
// every tensor. Each rank encodes its gradient and sends shard j's payload to rank j; the owner sums what
// came in rank order, adds the error its own last compression left (server error feedback), compresses
// the sum again and sends it to all. Two rounds of 2(N-1)/N times the compressed size, whatever N is.
// Every rank decodes the owner's bytes, the owner too, so all ranks hold the same bits.
// Source: 1-bit Adam (Tang et al., 2021), reference/onebit_adam.md section 1; CGX's scatter-reduce.
//
// It is a pipeline over units (units.h): while one is on the wire the next is encoded, and those that have
// come are summed, sent on and decoded. Nothing moves between calls of a transport that has no thread of its
// own, so the transport is asked for progress after every piece of work. Messages go from rank to rank by
// themselves, those of a round under one tag, in the order of the units.
#ifndef TERSE_RUNTIME_ENGINE_EXCHANGE_SCATTER_REDUCE_H_
#define TERSE_RUNTIME_ENGINE_EXCHANGE_SCATTER_REDUCE_H_

#include <array>
#include <memory>
#include <vector>

#include "runtime/engine/batch.h"
#include "runtime/engine/exchange/units.h"

namespace terse::engine {

class ScatterReduce {
 public:
  // One batch. `runner` lends its buffers and what all schedules share.
  ScatterReduce(BatchRunner* runner, const BatchContext& context, absl::Span<BatchRunner::Item> items);

  // On an error every gradient has been encoded, so that the residuals hold what is to be taken back.
  absl::Status Run();

 private:
  // The two rounds: a rank's pieces to their owners, and the owners' sums to all.
  enum Round : size_t { kScatter = 0, kGather = 1 };
  // Of one round: units that have come from all peers, and the receives of those that have not.
  struct Arrivals {
    size_t units = 0;
    std::vector<std::unique_ptr<transport::Operation>> receives;  // by unit
    std::vector<size_t> lengths;                                  // by unit and rank
  };

  absl::Status RunPipeline();
  absl::Status StartReceives();
  absl::Status Send(Round round, absl::Span<const transport::ConstBuffer> messages);
  // Goes past what has come of a round. Asks the transport for progress.
  absl::Status Poll(Round round);
  // Until something more has come.
  absl::Status Await();
  bool CanReduce() const;

  // The next unit in turn goes through the stage.
  absl::Status EncodeUnit(bool send);
  absl::Status EncodePart(const Part& part);
  absl::Status ParseUnit();  // checks its frames, notes where the payloads are
  absl::Status ReduceUnit();
  absl::Status ReducePart(size_t part_number, const Part& part);
  absl::Status DecodeUnit();
  absl::Status DecodePart(const Part& part, absl::Span<wire::Bytes> rest);

  size_t Slot(size_t unit, size_t r) const { return unit * ranks_ + r; }
  Shard PieceOf(const Part& part, size_t r) const;
  size_t LateBytes(const Part& part) const;

  BatchRunner& runner_;
  const BatchContext& context_;
  const absl::Span<BatchRunner::Item> items_;
  const size_t ranks_;
  const size_t self_;
  const Units units_;

  // Memory of messages_, which their tensors keep until their step ends.
  std::shared_ptr<Buffer<std::byte>> sent_from_;
  // By unit and rank: this rank's pieces for their owners, and the owners' sums.
  std::vector<wire::MutableBytes> messages_;
  std::vector<size_t> message_sizes_;
  std::vector<wire::MutableBytes> results_;
  // By unit and rank: the pieces of the own shard as they came. The own one stays in messages_.
  std::vector<wire::MutableBytes> received_;
  std::vector<size_t> result_sizes_;  // of the own sums, by unit

  std::vector<wire::MutableBytes> payloads_;  // of the own shard, by part and rank, once parsed
  std::vector<wire::Bytes> closings_;         // by item and rank

  std::array<Arrivals, 2> arrivals_;
  std::vector<std::unique_ptr<transport::Operation>> sends_;
  EncodeArgs encoding_;  // of the tensor whose parts are being encoded
  // Units that have gone through each stage.
  size_t encoded_ = 0;
  size_t parsed_ = 0;
  size_t reduced_ = 0;
  size_t decoded_ = 0;
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_EXCHANGE_SCATTER_REDUCE_H_
