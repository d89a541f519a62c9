// SPDX-License-Identifier: Apache-2.0
//
// DGC for a job whose optimizer has momentum of its own (`dgc.job_momentum`). DGC's update d_t has its
// momentum in it already. The job gets a_t instead, made so that its optimizer moves by d_t. With m the
// momentum, b the job's buffer, and the job's rules those of PyTorch's SGD (dampening 0):
//
//   plain      b_t = m b_(t-1) + a_t     moves by b_t = d_t            a_t = d_t - m b_(t-1)
//   Nesterov   b_t = m b_(t-1) + a_t     moves by a_t + m b_t = d_t    a_t = (d_t - m^2 b_(t-1)) / (1 + m)
//
// In the plain form b_(t-1) is d_(t-1). In Nesterov's, putting a_t into the first rule gives
// b_t = (m b_(t-1) + d_t) / (1 + m), and the second says a_t = d_t - m b_t. Where nothing is compressed d_t
// is that of momentum SGD, and a_t the mean gradient. All of it is linear: it holds for a job that multiplies
// what it gets by a constant (1/N of a sum), and its weight decay adds a buffer of its own to b, the one that
// DgcUpdate has.
//
// b here is what our results alone made of the job's buffer. What else is in it, of gradients from before the
// first exchange or reduced exactly in between, is momentum as in every job: it is left alone, and decays.
//
//   skipped    the job's optimizer did not run: b stays
//   clipped    the job scaled a_t by s: b_t = m b_(t-1) + s a_t, and it moved by s d_t + (1 - s) m b_(t-1)
//              (Nesterov: m^2). What is too much there is taken off what waits.
//   exact      k gradients of the tensor were reduced without us (PassExact). b moved the job by m^j b in the
//              j-th step (Nesterov: m^(j+1)) and is m^k b now, as momentum; to DGC these are k steps in which
//              the gradient was 0: u <- m u, v <- v + u. Hence v <- v + sum of (m^j u - m^j b), u <- m^k u.
//
// b is equal on all ranks, because results are. In the plain form it is d of the step before, so it is kept
// as a list where d is sparse: nothing is left of passes over d and two vectors where it is known at which
// positions d is not 0, and one over d where that is to be found out.
#ifndef TERSE_COMPRESSORS_METHODS_JOB_MOMENTUM_H_
#define TERSE_COMPRESSORS_METHODS_JOB_MOMENTUM_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "compressors/memory/large_vector.h"
#include "compressors/methods/method.h"
#include "proto/wire/config.h"

namespace terse {

// Memory: 2n floats, b and that of the step under way; in the plain form, where results are sparse, their
// entries alone. Not thread-safe.
class JobMomentum {
 public:
  // `momentum` and form of the job; in units of what a rank's own vectors are, the result is `unit` of them:
  // 1 for a mean, 1/N for a sum.
  JobMomentum(double momentum, bool nesterov, double unit);

  // `out` is d and becomes a. False when a is not finite somewhere: then nothing is to be resolved.
  bool Turn(absl::Span<float> out) { return Turn(out, nullptr); }
  // The same, where `out` is 0 but at `support`, ascending.
  bool Turn(absl::Span<float> out, absl::Span<const uint32_t> support) { return Turn(out, &support); }
  // How many such positions, of n, are of use in the next Turn; 0: none.
  size_t most_support(size_t n) const;

  // The step has ended. `waiting`: the rank's v, made where it is empty and something is taken off it.
  void Resolve(double applied, FloatVector* waiting);

  // `steps` gradients were reduced exactly, outside. Between Resolve and Turn. An empty v stays so: then the
  // tensor was dense, where the mean of the ranks' u is b (Nesterov: m b) and nothing is over.
  void PassExact(uint64_t steps, FloatVector* u, FloatVector* v);

  void VisitState(const TensorMethod::Visitor& visit) {
    if (size_ > 0) buffer_.MakeDense(size_);
    visit("job_buffer", wire::MemoryRole::kReplicated, &buffer_.dense);
    size_ = buffer_.dense.size();  // it may have been replaced
    buffer_.sparse = size_ == 0;
  }

 private:
  // A vector, all of it or what is not 0 of it. At first it is 0.
  struct Buffer {
    bool sparse = true;
    std::vector<uint32_t> positions;  // ascending; none unless sparse
    std::vector<float> values;
    FloatVector dense;  // while it is sparse, memory for when it is not

    void MakeDense(size_t n);
  };

  bool Turn(absl::Span<float> out, const absl::Span<const uint32_t>* support);
  // Whether `out` is sparse, as next_ is then, with its positions.
  bool FindEntries(absl::Span<const float> out, const absl::Span<const uint32_t>* support);
  // Both are sparse.
  bool TurnEntries(absl::Span<float> out);

  const float momentum_;
  const bool nesterov_;
  const float over_;  // of b: by how much a b that stays in the job moves it too far, in units of v
  size_t size_ = 0;   // 0: no result has come
  Buffer buffer_;
  Buffer next_;
  bool turned_ = false;
  int wait_ = 0;  // results to come that are not looked through
  int calm_ = 0;  // sparse results in a row
};

}  // namespace terse

#endif  // TERSE_COMPRESSORS_METHODS_JOB_MOMENTUM_H_
