// SPDX-License-Identifier: Apache-2.0
//
// Learns the period in a sequence of call signatures: a training job makes the same all-reduces in every
// step, so the position of a call within the step says which tensor it is (docs/preload.md).
//
// A period is learned after `repeats` identical periods in a row. The shortest period that fits is taken,
// but a short one that did not hold (the ten calls "A" in "A A A A A A A A A A B", again and again) must
// fit for longer the next time. A call that does not fit ends the period, and learning begins anew with
// that call.
//
// The outcome depends on the sequence alone, so ranks that make the same calls learn the same. Cost: one
// comparison a call while a period holds; a bounded number of steps a call while learning. Memory: grows
// with the number of calls, up to about 128 KiB at the default options. Not thread-safe.
#ifndef TERSE_RUNTIME_INTERCEPT_PERIOD_H_
#define TERSE_RUNTIME_INTERCEPT_PERIOD_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace terse::intercept {

class PeriodLearner {
 public:
  struct Options {
    int32_t repeats = 3;     // at least 2
    int32_t longest = 4096;  // calls; longer periods are not found
  };
  enum class Event : uint8_t {
    kNone,
    kLearned,    // this call completed the last of the identical periods; the next one has a position
    kDeviation,  // this call did not fit; it is the first of the new sequence
  };
  struct Outcome {
    int32_t position = -1;  // of this call in the learned period; -1 while learning
    Event event = Event::kNone;
  };

  PeriodLearner() : PeriodLearner(Options{}) {}
  explicit PeriodLearner(const Options& options);

  // Takes the next call's signature (its hash).
  Outcome Next(uint64_t signature) {
    if (learned_ && signature == period_[next_]) {
      const Outcome outcome{next_, Event::kNone};
      ++held_;
      if (++next_ == static_cast<int32_t>(period_.size())) next_ = 0;
      return outcome;
    }
    return Learn(signature);
  }

  bool learned() const { return learned_; }
  // Of the period that holds, or the last one that did; empty before the first. When the same period is
  // learned again it keeps its beginning, so that positions keep their meaning.
  const std::vector<uint64_t>& period() const { return period_; }
  // The position that the next call will have if it fits.
  int32_t next_position() const { return learned_ ? next_ : -1; }
  int64_t deviations() const { return deviations_; }

 private:
  // A length that has fitted for `run` calls up to the last one.
  struct Candidate {
    uint32_t length = 0;
    int64_t run = 0;
  };
  // Windows of so many calls are looked for in the past: a period is found by any window that occurs in
  // it once, and short windows may occur several times.
  static constexpr std::array<uint32_t, 3> kWindows = {1, 8, 128};
  static constexpr size_t kCandidates = 8;

  Outcome Learn(uint64_t signature);
  void Restart();
  void Grow();
  void RollWindows(uint64_t index, uint64_t signature);
  void Remember(uint64_t signature);
  void FollowCandidates(uint64_t signature);
  void FindCandidates(uint64_t signature);
  void AddCandidate(uint32_t length);
  const Candidate* Fitting() const;
  void Accept(uint32_t length);
  uint64_t At(uint64_t index) const { return history_[index & (history_.size() - 1)]; }

  Options options_;
  bool learned_ = false;
  int32_t next_ = 0;
  int64_t held_ = 0;  // calls that fitted since the period was learned, and those it was learned from
  int64_t deviations_ = 0;
  int64_t shortest_run_ = 0;  // what a run must reach, after periods that did not hold
  std::vector<uint64_t> period_;

  uint64_t count_ = 0;             // calls since learning began; the last one has this index
  std::vector<uint64_t> history_;  // a ring; its size is a power of two
  // For each kind of window: its rolling hash, and where one with the same hash ended last.
  std::array<uint64_t, kWindows.size()> window_hashes_{};
  std::array<std::vector<uint32_t>, kWindows.size()> window_ends_;
  std::vector<Candidate> candidates_;
  int64_t budget_ = 0;  // comparisons that may be spent on looking back
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_PERIOD_H_
