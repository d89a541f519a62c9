// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/hang/watch.h"

#include <pthread.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <system_error>
#include <utility>

namespace terse::intercept {
namespace {

constexpr double kPatience = 1.5;     // seconds for a rank's answer, at each of its addresses
constexpr double kLongestRound = 20;  // seconds for all answers
constexpr double kLongestSleep = 1;   // seconds between looks
constexpr size_t kFirstBatch = 1;     // ranks that are asked at once: as a rule the lowest one speaks
constexpr size_t kBatchGrowth = 4;

// New threads inherit the mask: the program's signals are for its own threads.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

bool SameWait(const Place& a, const Place& b) {
  return a.communicator == b.communicator && a.ordinal == b.ordinal && a.stage == b.stage;
}

std::string GoesOn(int rank, const Place& place) {
  return "rank " + std::to_string(rank) + " goes on: " + Describe(place) + " is over, after " +
         std::to_string(std::lround(place.seconds)) + " s or little more";
}

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

bool ParseHangAfter(const char* text, double* seconds) {
  *seconds = kDefaultHangAfter;
  if (text == nullptr) return true;
  double value = 0;
  const char* const end = text + std::strlen(text);
  const auto [stopped, error] = std::from_chars(text, end, value);
  if (error != std::errc() || stopped != end || !(value >= 0 && value <= kMostHangAfter)) return false;
  *seconds = value;
  return true;
}

Watch::Watch(Options options, std::unique_ptr<Listener> listener)
    : options_(std::move(options)), listener_(std::move(listener)) {}

std::unique_ptr<Watch> Watch::Open(Options options, Card* card, std::string* error) {
  *card = MakeCard();
  std::unique_ptr<Listener> listener = Listener::Open(card, error);
  if (listener == nullptr) return nullptr;
  std::unique_ptr<Watch> watch(new Watch(std::move(options), std::move(listener)));
  if (watch->stop_.works()) return watch;
  *error = "no eventfd";
  card->loopback_port = 0;
  return nullptr;
}

bool Watch::Start(std::vector<Card> cards, std::string* error) {
  cards_ = std::move(cards);
  const uint64_t host = cards_[static_cast<size_t>(options_.rank)].host;
  if (std::all_of(cards_.begin(), cards_.end(), [&](const Card& card) { return card.host == host; })) {
    listener_->CloseOutside();
  }
  const SignalsBlocked blocked;
  try {
    answering_ = std::thread([this] {
      listener_->Serve([this](const CommunicatorKey& asked) { return MakeAnswer(Look(), asked); }, stop_);
    });
    looking_ = std::thread([this] { Run(); });
  } catch (const std::system_error& failed) {
    *error = failed.what();
    Stop();
    return false;
  }
  return true;
}

void Watch::Stop() {
  stop_.Stop();
  if (looking_.joinable()) looking_.join();
  if (answering_.joinable()) answering_.join();
  listener_.reset();
}

void Watch::ForgetInChild() {
  if (listener_ != nullptr) listener_->CloseInChild();
  stop_.Close();
}

std::vector<HangEvent> Watch::Events(int64_t* count) const {
  // The thread that looks may not have seen yet that a wait is over.
  const std::vector<Board::Seen> seen = Look();
  const std::lock_guard<std::mutex> lock(mutex_);
  *count = event_count_;
  std::vector<HangEvent> events;
  for (const auto& [told, place] : events_) {
    events.push_back(told);
    events.back().over |= std::none_of(seen.begin(), seen.end(), [&waited = place](const Board::Seen& one) {
      return SameWait(one.place, waited);
    });
  }
  return events;
}

RankName Watch::NameOf(int rank) const {
  const Card& card = cards_[static_cast<size_t>(rank)];
  return {rank, card.host_name, card.pid};
}

void Watch::Run() {
  while (stop_.Sleep(std::clamp(options_.after / 8, 0.02, kLongestSleep))) Check();
  Check();  // what went on since is still said
}

void Watch::Check() {
  for (Known& known : known_) known.seen = false;
  for (const Board::Seen& seen : Look()) {
    const Place& place = seen.place;
    if (!place.waits() || place.seconds < options_.after) continue;
    auto known = std::find_if(known_.begin(), known_.end(),
                              [&](const Known& one) { return SameWait(one.last, place); });
    if (known == known_.end()) {
      known_.push_back({.last = place, .next = options_.after, .event = kMostEvents});
      known = known_.end() - 1;
    }
    known->seen = true;
    known->last = place;
    if (place.seconds >= known->next && !stop_.stopped()) {
      // From what was waited, not from what was due: a process that was stopped does not catch up.
      while (known->next <= place.seconds) known->next *= 2;
      Investigate(seen, &*known);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    if (known->event < events_.size()) events_[known->event].told.seconds = place.seconds;
  }
  for (const Known& known : known_) {
    if (known.seen || !known.said) continue;
    Say(GoesOn(options_.rank, known.last));
    const std::lock_guard<std::mutex> lock(mutex_);
    if (known.event < events_.size()) events_[known.event].told.over = true;
  }
  std::erase_if(known_, [](const Known& known) { return !known.seen; });
}

void Watch::Investigate(const Board::Seen& wait, Known* known) {
  std::vector<int> others;  // in ascending order
  int unasked = 0;
  for (const int rank : *wait.ranks) {
    if (rank == options_.rank) continue;
    if (rank < 0 || static_cast<size_t>(rank) >= cards_.size()) {
      ++unasked;
    } else {
      others.push_back(rank);
    }
  }
  std::sort(others.begin(), others.end());
  std::vector<Heard> heard;
  const double begin = Seconds();
  size_t batch = kFirstBatch;
  for (size_t next = 0; next < others.size();) {
    if (Seconds() - begin > kLongestRound) {
      unasked += static_cast<int>(others.size() - next);
      break;
    }
    const size_t end = std::min(others.size(), next + batch);
    std::vector<const Card*> asked;
    for (size_t i = next; i < end; ++i) asked.push_back(&cards_[static_cast<size_t>(others[i])]);
    std::vector<Reply> replies = Ask(asked, cards_[static_cast<size_t>(options_.rank)].host,
                                     wait.place.communicator, kPatience, stop_);
    if (stop_.stopped()) return;
    for (Reply& reply : replies) {
      const int rank = others[next++];
      // One that came only now would speak too late, so this rank does.
      double seconds = 0;
      if (rank < options_.rank && reply.reached == Reached::kAnswered &&
          WaitsAlike(wait.place, reply.answer, &seconds) && seconds >= options_.after / 2) {
        return;
      }
      heard.push_back({NameOf(rank), std::move(reply)});
    }
    batch = std::min(batch * kBatchGrowth, kMostAtOnce);
  }
  // While they were asked the call may have gone on.
  std::vector<Place> own;
  bool waits = false;
  for (const auto& [place, ranks] : Look()) {
    waits |= SameWait(place, wait.place);
    own.push_back(place);
  }
  if (!waits) return;
  const std::string text =
      Explain(NameOf(options_.rank), wait.place, own, heard, unasked, options_.vocabulary);
  Say(text);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!known->said) {
    ++event_count_;
    known->event = events_.size();
    if (events_.size() < kMostEvents) {
      events_.push_back({{options_.rank, Describe(wait.place), wait.place.seconds, false, text}, wait.place});
    }
  }
  known->said = true;
}

}  // namespace terse::intercept
