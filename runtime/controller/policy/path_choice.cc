// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/policy/path_choice.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"

namespace terse::policy {
namespace {

constexpr size_t kWarm = 1;  // exchanges in which memory is touched for the first time
constexpr size_t kFew = 2;   // times that are enough where they leave no doubt
constexpr size_t kMost = 5;  // times whose medians decide otherwise
constexpr double kClear = 0.5;
constexpr double kMargin = 0.05;  // what a path in use gets more

constexpr size_t kPartedElements = size_t{256} << 10;
constexpr double kFirstPart = 0.25;

constexpr uint64_t kLookEvery = 8;
constexpr size_t kLooks = 5;
constexpr double kMuch = 2.0;  // slower or faster than was decided from

// Of the time that the tensor's exchanges take, what trials may cost that come because they are due; those
// that traffic asks for may cost ten times as much.
constexpr double kShare = 0.01;
constexpr uint64_t kSooner = 10;
constexpr uint64_t kSoonest = 20;
constexpr double kLeastWait = 100;
constexpr double kMostWait = 1e6;
constexpr int kMostDoublings = 10;

bool Taken(double ms) { return ms >= 0 && std::isfinite(ms); }

double Median(std::vector<double> times) {
  const auto middle = times.begin() + static_cast<ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  if (times.size() % 2 != 0) return *middle;
  return (*std::max_element(times.begin(), middle) + *middle) / 2;
}

// Every time of `a` is at most that part of every time of `b`.
bool AllLess(const std::vector<double>& a, double part, const std::vector<double>& b) {
  return *std::max_element(a.begin(), a.end()) <= part * *std::min_element(b.begin(), b.end());
}

}  // namespace

std::string_view Name(Path path) { return path == Path::kDense ? "dense" : "compressed"; }

std::string_view Words(TrialCause cause) {
  switch (cause) {
    case TrialCause::kFirst:
      return "first trial";
    case TrialCause::kPlan:
      return "the plan changed";
    case TrialCause::kDue:
      return "a trial was due";
    case TrialCause::kSlower:
      return "exchanges had become slower";
    case TrialCause::kFaster:
      return "exchanges had become faster";
  }
  return "";
}

std::string Reason(const PathDecision& decision) {
  const bool dense = decision.path == Path::kDense;
  const std::string_view used = Name(decision.path);
  const std::string_view other = dense ? Name(Path::kCompressed) : Name(Path::kDense);
  const double used_ms = dense ? decision.dense_ms : decision.compressed_ms;
  const double other_ms = dense ? decision.compressed_ms : decision.dense_ms;
  if (used_ms < other_ms) {
    const std::string_view about = decision.dense_part < 1 ? "about " : "";
    return absl::StrFormat("%s is faster: %.3g ms < %s%.3g ms", used, used_ms, about, other_ms);
  }
  const std::string_view much = other_ms < used_ms ? "much " : "";
  return absl::StrFormat("%s is not %sfaster: %.3g ms, %s %.3g ms", other, much, other_ms, used, used_ms);
}

double FirstDensePart(size_t elements) { return elements < kPartedElements ? 1 : kFirstPart; }

bool PathChoice::Exchanged() {
  ++since_;
  if (trying_) return true;
  if (since_ >= wait_) {
    Try(TrialCause::kDue);
    return false;
  }
  return since_ % kLookEvery == 0;
}

std::optional<PathDecision> PathChoice::Step(const PathTimes& slowest) {
  if (!trying_) {
    Look(path_ == Path::kDense ? slowest.dense_ms : slowest.compressed_ms);
    return std::nullopt;
  }
  if (!Taken(slowest.compressed_ms) || !Taken(slowest.dense_ms)) return std::nullopt;
  if (warm_ < kWarm) {
    ++warm_;
    if (slowest.compressed_ms > slowest.dense_ms) part_ = 1;  // a part will not tell
    return std::nullopt;
  }
  compressed_.push_back(slowest.compressed_ms);
  dense_.push_back(slowest.dense_ms);
  if (compressed_.size() < kFew) return std::nullopt;
  if (part_ < 1) {
    if (AllLess(compressed_, worth_, dense_)) return Decide();
    part_ = 1;
    compressed_.clear();
    dense_.clear();
    return std::nullopt;
  }
  if (compressed_.size() < kMost && !Clear()) return std::nullopt;
  return Decide();
}

void PathChoice::Restart() {
  path_ = Path::kCompressed;
  decided_ = false;
  unchanged_ = 0;
  Try(TrialCause::kPlan);
}

void PathChoice::Try(TrialCause cause) {
  ++revision_;
  trying_ = true;
  cause_ = cause;
  warm_ = 0;
  part_ = first_part_;
  compressed_.clear();
  dense_.clear();
}

void PathChoice::Look(double ms) {
  if (!Taken(ms)) return;
  if (looks_.size() == kLooks) looks_.erase(looks_.begin());
  looks_.push_back(ms);
  if (looks_.size() < kLooks || since_ < std::max(kSoonest, wait_ / kSooner)) return;
  const double now = Median(looks_);
  if (now > kMuch * in_use_ms_) Try(TrialCause::kSlower);
  if (now * kMuch < in_use_ms_) Try(TrialCause::kFaster);
}

bool PathChoice::Clear() const {
  return AllLess(compressed_, kClear, dense_) || AllLess(dense_, kClear, compressed_);
}

PathDecision PathChoice::Decide() {
  PathDecision decision;
  decision.cause = cause_;
  decision.compressed_ms = Median(compressed_);
  decision.dense_ms = Median(dense_) / part_;
  decision.dense_part = part_;
  const bool was_dense = path_ == Path::kDense;
  const double most = worth_ * (was_dense ? 1 - kMargin : 1) * decision.dense_ms;
  const bool dense = decision.compressed_ms > most;
  decision.path = dense ? Path::kDense : Path::kCompressed;
  decision.changed = dense != was_dense;

  unchanged_ = decision.changed || !decided_ ? 0 : std::min(unchanged_ + 1, kMostDoublings);
  in_use_ms_ = dense ? decision.dense_ms : decision.compressed_ms;
  const double trial = static_cast<double>(kWarm + compressed_.size()) *
                       (dense ? decision.compressed_ms : part_ * decision.dense_ms);
  const double wait = std::ldexp(trial, unchanged_) / kShare;
  // Times of 0 give no wait that could be divided out.
  wait_ = static_cast<uint64_t>(
      wait < kMostWait * in_use_ms_ ? std::max(kLeastWait, std::ceil(wait / in_use_ms_)) : kMostWait);
  path_ = decision.path;
  trying_ = false;
  since_ = 0;
  looks_.clear();
  last_ = decision;
  decided_ = true;
  ++trials_;
  ++revision_;
  return decision;
}

}  // namespace terse::policy
