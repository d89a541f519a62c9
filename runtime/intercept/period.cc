// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/period.h"

#include <algorithm>
#include <bit>

namespace terse::intercept {
namespace {

constexpr uint64_t kBase = 0x9e3779b97f4a7c15u | 1;
constexpr size_t kSmallestHistory = 64;
// Calls of a period that ended sooner than this many repeats count as part of a longer one.
constexpr int64_t kRepeatsOfATruePeriod = 32;
// Comparisons backwards that each call pays for, and how many can be saved up.
constexpr int64_t kBudgetPerCall = 4;
constexpr int64_t kLargestBudget = 8192;

constexpr uint64_t PowerOfBase(uint32_t exponent) {
  uint64_t result = 1;
  for (uint32_t i = 0; i < exponent; ++i) result *= kBase;
  return result;
}

// What a signature that leaves a window has been multiplied by.
template <size_t n>
constexpr std::array<uint64_t, n> Leaving(const std::array<uint32_t, n>& windows) {
  std::array<uint64_t, n> powers{};
  for (size_t i = 0; i < n; ++i) powers[i] = PowerOfBase(windows[i]);
  return powers;
}

size_t Slot(uint64_t hash, size_t slots) {
  return static_cast<size_t>((hash * 0xd6e8feb86659fd93u) >> 32) & (slots - 1);
}

}  // namespace

PeriodLearner::PeriodLearner(const Options& options) : options_(options) {
  options_.repeats = std::max(options_.repeats, 2);
  options_.longest = std::max(options_.longest, 1);
}

PeriodLearner::Outcome PeriodLearner::Learn(uint64_t signature) {
  Outcome outcome;
  if (learned_) {
    outcome.event = Event::kDeviation;
    ++deviations_;
    if (held_ < kRepeatsOfATruePeriod * static_cast<int64_t>(period_.size())) {
      shortest_run_ = std::max(shortest_run_, std::min<int64_t>(2 * held_, 2 * int64_t{options_.longest}));
    }
    Restart();
  }
  Remember(signature);
  FollowCandidates(signature);
  FindCandidates(signature);
  if (const Candidate* const fitting = Fitting(); fitting != nullptr) {
    Accept(fitting->length);
    outcome.event = Event::kLearned;
  }
  return outcome;
}

void PeriodLearner::Restart() {
  learned_ = false;
  count_ = 0;
  candidates_.clear();
  window_hashes_ = {};
  for (std::vector<uint32_t>& ends : window_ends_) std::fill(ends.begin(), ends.end(), 0);
  budget_ = 0;
}

void PeriodLearner::Grow() {
  const size_t largest = std::bit_ceil(static_cast<size_t>(options_.longest) + kWindows.back() + 1);
  if (!history_.empty() && (count_ < history_.size() || history_.size() >= largest)) return;
  const size_t size = history_.empty() ? kSmallestHistory : 2 * history_.size();
  std::vector<uint64_t> history(size, 0);
  for (uint64_t index = 1; index <= count_; ++index) history[index & (size - 1)] = At(index);
  history_ = std::move(history);
  // The ring has never wrapped yet, so all windows can be entered into the larger tables.
  window_hashes_ = {};
  for (std::vector<uint32_t>& ends : window_ends_) ends.assign(size / 2, 0);
  for (uint64_t index = 1; index <= count_; ++index) {
    RollWindows(index, At(index));
    for (size_t i = 0; i < kWindows.size() && index >= kWindows[i]; ++i) {
      window_ends_[i][Slot(window_hashes_[i], window_ends_[i].size())] = static_cast<uint32_t>(index);
    }
  }
}

void PeriodLearner::RollWindows(uint64_t index, uint64_t signature) {
  static constexpr auto kLeavingOf = Leaving(kWindows);
  for (size_t i = 0; i < kWindows.size(); ++i) {
    uint64_t& hash = window_hashes_[i];
    hash = hash * kBase + signature;
    if (index > kWindows[i]) hash -= kLeavingOf[i] * At(index - kWindows[i]);
  }
}

void PeriodLearner::Remember(uint64_t signature) {
  Grow();
  ++count_;
  RollWindows(count_, signature);
  history_[count_ & (history_.size() - 1)] = signature;
  budget_ = std::min(budget_ + kBudgetPerCall, kLargestBudget);
}

void PeriodLearner::FollowCandidates(uint64_t signature) {
  std::erase_if(candidates_, [&](Candidate& candidate) {
    ++candidate.run;
    return At(count_ - candidate.length) != signature;
  });
}

void PeriodLearner::FindCandidates(uint64_t signature) {
  for (size_t i = 0; i < kWindows.size() && count_ >= kWindows[i]; ++i) {
    uint32_t& end = window_ends_[i][Slot(window_hashes_[i], window_ends_[i].size())];
    // Modulo 2^32, as `end` is; a distance that is too long by that is refused or does not compare.
    const uint32_t length = static_cast<uint32_t>(count_) - end;
    const bool found = end != 0 && length <= static_cast<uint32_t>(options_.longest) && length < count_;
    end = static_cast<uint32_t>(count_);
    if (found && At(count_ - length) == signature) AddCandidate(length);
  }
}

void PeriodLearner::AddCandidate(uint32_t length) {
  for (const Candidate& candidate : candidates_) {
    if (candidate.length == length) return;
  }
  // It may have fitted for some calls already.
  int64_t run = 1;
  const uint64_t wanted = uint64_t{length} * static_cast<uint64_t>(options_.repeats - 1);
  const uint64_t oldest = count_ < history_.size() ? 1 : count_ + 1 - history_.size();
  for (uint64_t index = count_ - 1; index >= oldest + length && budget_ > 0; --index) {
    --budget_;
    if (At(index) != At(index - length) || static_cast<uint64_t>(run) >= wanted) break;
    ++run;
  }
  if (candidates_.size() == kCandidates) {
    const auto weakest = std::min_element(candidates_.begin(), candidates_.end(),
                                          [](const auto& a, const auto& b) { return a.run < b.run; });
    candidates_.erase(weakest);
  }
  candidates_.push_back({length, run});
}

const PeriodLearner::Candidate* PeriodLearner::Fitting() const {
  const Candidate* best = nullptr;
  for (const Candidate& candidate : candidates_) {
    const int64_t needed = int64_t{candidate.length} * (options_.repeats - 1);
    if (candidate.run < std::max(needed, shortest_run_)) continue;
    if (best == nullptr || candidate.length < best->length) best = &candidate;
  }
  return best;
}

void PeriodLearner::Accept(uint32_t length) {
  std::vector<uint64_t> found(length);
  for (uint32_t i = 0; i < length; ++i) found[i] = At(count_ - length + 1 + i);
  learned_ = true;
  next_ = 0;
  held_ = int64_t{length} * options_.repeats;
  if (found.size() == period_.size()) {
    // The old one, beginning elsewhere?
    std::vector<uint64_t> twice(period_);
    twice.insert(twice.end(), period_.begin(), period_.end());
    const auto at = std::search(twice.begin(), twice.end(), found.begin(), found.end());
    if (at != twice.end()) {
      next_ = static_cast<int32_t>((at - twice.begin()) % static_cast<int64_t>(length));
      return;
    }
  }
  period_ = std::move(found);
}

}  // namespace terse::intercept
