// SPDX-License-Identifier: Apache-2.0
//
// Tells why calls hang: a thread that finds calls of this rank which wait long, asks the other ranks where
// they are and says it on stderr, and one that answers when they ask. Neither calls MPI, and both block all
// signals. Of ranks that wait in the same call the lowest one speaks. Nothing here ends a wait or the job.
#ifndef TERSE_RUNTIME_INTERCEPT_HANG_WATCH_H_
#define TERSE_RUNTIME_INTERCEPT_HANG_WATCH_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "runtime/intercept/hang/channel.h"
#include "runtime/intercept/hang/event.h"
#include "runtime/intercept/hang/explain.h"
#include "runtime/intercept/hang/messages.h"
#include "runtime/intercept/hang/whereabouts.h"
#include "runtime/intercept/signature.h"
#include "runtime/intercept/tick.h"

namespace terse::intercept {

inline constexpr double kDefaultHangAfter = 60;
inline constexpr double kMostHangAfter = 1e6;

// TERSE_HANG_AFTER_S: seconds from 0 (off) to kMostHangAfter, or null for the default. False for anything
// else, with the default in *seconds.
bool ParseHangAfter(const char* text, double* seconds);

class Watch {
 public:
  static constexpr size_t kMostEvents = 64;  // kept; all are counted

  struct Options {
    int rank = 0;
    double after = kDefaultHangAfter;
    Vocabulary vocabulary;
    std::function<void(const std::string&)> say;  // on the watch's thread; a line without its end
  };

  // Listens: the ports and tokens go into *card, which all ranks are then told. Null and *error when that
  // failed.
  static std::unique_ptr<Watch> Open(Options options, Card* card, std::string* error);
  ~Watch() { Stop(); }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // Begins, with the cards of all ranks, this one's among them. False and *error without threads.
  bool Start(std::vector<Card> cards, std::string* error);
  // Ends and joins the threads, within a moment. Once; then there are no more answers.
  void Stop();
  // In a child that was forked, where the threads are not: lets go of what it inherited.
  void ForgetInChild();

  Board& board() { return board_; }
  // Of waits so far; any thread.
  std::vector<HangEvent> Events(int64_t* count) const;

 private:
  // A wait that is known.
  struct Known {
    Place last;
    double next;  // seconds of waiting at which the others are asked
    size_t event;
    bool said = false;
    bool seen = false;
  };
  struct Event {
    HangEvent told;
    Place place;
  };

  Watch(Options options, std::unique_ptr<Listener> listener);
  std::vector<Board::Seen> Look() const { return board_.Look(Now(), rate_.SecondsPerTick()); }
  void Run();
  void Check();
  void Investigate(const Board::Seen& wait, Known* known);
  void Say(const std::string& text) const { options_.say("terse: " + text); }
  RankName NameOf(int rank) const;

  const Options options_;
  const TickRate rate_;
  Board board_;
  StopSignal stop_;
  std::unique_ptr<Listener> listener_;
  std::vector<Card> cards_;
  std::vector<Known> known_;  // of the thread that looks
  std::thread looking_;
  std::thread answering_;

  mutable std::mutex mutex_;
  std::vector<Event> events_;
  int64_t event_count_ = 0;
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_HANG_WATCH_H_
