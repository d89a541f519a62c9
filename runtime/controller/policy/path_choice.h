// SPDX-License-Identifier: Apache-2.0
//
// `dense_when_faster`: whether a tensor goes as its plan says or dense, from times that the engine has taken.
// One instance a tensor, a state machine without a clock: the same calls give the same decisions, so ranks
// that feed it the same times, those of the slowest rank, decide alike.
//
//   trial    the tensor is compressed, and a dense exchange is timed beside each of its own. After a first
//            one that only warms up, 2 times of each decide where all of one are at least twice the other's,
//            else the medians of 5. Compressed it stays where that is worth its while (`worth` below), and
//            becomes where that takes a twentieth less yet. Of a large tensor (`part` below) a quarter goes
//            dense at first: the whole takes no less, and commonly four times as much, so where compressing
//            is worth its while against a quarter nothing is left to be asked. Otherwise the whole is
//            timed.
//   settled  the faster path is in use. Every 8th exchange is looked at. A trial comes when the median of
//            the last 5 looks is twice or half of what was decided from, and in any case after a wait in
//            which a trial's cost is a hundredth of the time spent; the wait doubles with each trial that
//            changes nothing.
//
// Not thread-safe: one owner.
#ifndef TERSE_RUNTIME_CONTROLLER_POLICY_PATH_CHOICE_H_
#define TERSE_RUNTIME_CONTROLLER_POLICY_PATH_CHOICE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace terse::policy {

enum class Path : uint8_t { kCompressed, kDense };
std::string_view Name(Path path);

// What an exchange of the tensor took, in ms, of the slowest rank.
struct PathTimes {
  static constexpr double kMissing = -1.0;
  double compressed_ms = kMissing;
  double dense_ms = kMissing;
};

// Why a trial was made.
enum class TrialCause : uint8_t {
  kFirst,
  kPlan,    // the plan or its parameters changed
  kDue,     // the wait was over
  kSlower,  // exchanges took much longer than was decided from
  kFaster,  // or much less
};
std::string_view Words(TrialCause cause);

// What a trial came to.
struct PathDecision {
  Path path = Path::kCompressed;
  bool changed = false;  // another path than before the trial; a first trial begins with compressed
  TrialCause cause = TrialCause::kFirst;
  double compressed_ms = 0;  // medians
  double dense_ms = 0;       // where only a part went dense, what the whole would have taken at its rate
  double dense_part = 1;     // of the tensor
};
// "dense is faster: 1.2 ms < 1.9 ms"; "compressed is faster: 1.2 ms < about 40 ms", where a part went dense
std::string Reason(const PathDecision& decision);

// What part of the dense exchange's time a compressed one may take at most, to be worth its while: its step
// has rounds and passes over memory that no time of an exchange shows. On one machine both ways are work of
// the processors and the memory that the job computes with, little can be gained, and times of single
// exchanges are told apart from noise only where they differ much.
inline constexpr double kWorthBetweenMachines = 0.8;
inline constexpr double kWorthWithinMachine = 0.5;

// The part of a tensor of so many elements that trials begin with. Small ones are mostly latency.
double FirstDensePart(size_t elements);

class PathChoice {
 public:
  explicit PathChoice(double worth = kWorthBetweenMachines, double first_part = 1)
      : worth_(worth), first_part_(first_part), part_(first_part) {}

  // Where the tensor is to go from its next step on.
  Path path() const { return trying_ ? Path::kCompressed : path_; }
  // While it is compressed, a dense exchange is to be timed beside each of its own.
  bool trying() const { return trying_; }
  // How much of the tensor that dense exchange is to have, up to 1.
  double dense_part() const { return part_; }

  // Exchanges since it was decided that it goes dense; 0 on trial, and compressed.
  uint64_t dense_run() const { return path() == Path::kDense ? since_ : 0; }

  // The tensor has been exchanged. True: Step is to get the times of this exchange.
  bool Exchanged();

  // Times of an exchange, any number of exchanges later; what is missing is kMissing. On trial `dense_ms` is
  // that of the part. The decision, if this ends a trial.
  std::optional<PathDecision> Step(const PathTimes& slowest);

  // The tensor goes by another plan: what was measured means nothing any more.
  void Restart();

  // Grows whenever path, trying or last change.
  uint64_t revision() const { return revision_; }
  // The last decision; null: none since the beginning or the last Restart.
  const PathDecision* last() const { return decided_ ? &last_ : nullptr; }
  uint64_t trials() const { return trials_; }  // that have ended
  uint64_t wait() const { return wait_; }      // exchanges between a decision and the trial that is then due

 private:
  void Try(TrialCause cause);
  void Look(double ms);
  bool Clear() const;
  PathDecision Decide();

  double worth_;
  double first_part_;
  double part_;
  Path path_ = Path::kCompressed;
  bool trying_ = true;
  TrialCause cause_ = TrialCause::kFirst;
  size_t warm_ = 0;
  std::vector<double> compressed_;  // of the trial
  std::vector<double> dense_;
  std::vector<double> looks_;
  double in_use_ms_ = 0;  // of the path in use, when it was decided on
  uint64_t since_ = 0;    // exchanges since the decision
  uint64_t wait_ = 0;
  int unchanged_ = 0;  // trials in a row
  bool decided_ = false;
  PathDecision last_;
  uint64_t trials_ = 0;
  uint64_t revision_ = 0;
};

}  // namespace terse::policy

#endif  // TERSE_RUNTIME_CONTROLLER_POLICY_PATH_CHOICE_H_
