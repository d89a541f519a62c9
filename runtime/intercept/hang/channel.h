// SPDX-License-Identifier: Apache-2.0
//
// The way by which ranks ask each other where they are while MPI waits: TCP, apart from MPI. A rank listens
// on its loopback address, and on the others until it is known that all ranks are on its host. Whoever has
// not the rank's token gets no byte. Every socket has a deadline; nothing here throws or ends the process.
#ifndef TERSE_RUNTIME_INTERCEPT_HANG_CHANNEL_H_
#define TERSE_RUNTIME_INTERCEPT_HANG_CHANNEL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/intercept/hang/messages.h"

namespace terse::intercept {

// A file descriptor, closed with it.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor() { Close(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      Close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  void Close();

 private:
  int fd_;
};

// Ends the waits of other threads, for good.
class StopSignal {
 public:
  StopSignal();
  bool works() const { return event_.open(); }
  void Stop();  // any thread
  bool stopped() const { return stopped_.load(std::memory_order_acquire); }
  int fd() const { return event_.get(); }  // readable once stopped
  // False once stopped.
  bool Sleep(double seconds) const;
  // In a child that was forked: without it the child would hold the parent's.
  void Close() { event_.Close(); }

 private:
  Descriptor event_;
  std::atomic<bool> stopped_{false};
};

// A rank's own card, but for the ports; empty tokens where the system gives no random numbers.
Card MakeCard();

class Listener {
 public:
  static constexpr size_t kMostConnections = 64;
  static constexpr double kPatience = 2;  // seconds for a question to arrive

  // Listens, and writes the ports to `card`, whose tokens are set. Null and *error when that failed.
  static std::unique_ptr<Listener> Open(Card* card, std::string* error);

  // All ranks are on this host. Before Serve.
  void CloseOutside() { outside_.Close(); }
  // Answers questions until `stop`.
  void Serve(const std::function<Answer(const CommunicatorKey&)>& answer, const StopSignal& stop);
  // In a child that was forked, which does not serve.
  void CloseInChild();

 private:
  struct Connection {
    Descriptor socket;
    int64_t deadline;
    std::string bytes;
  };

  Listener(Descriptor loopback, Descriptor outside, const Card& card);
  bool Accept(int listening);
  // False when the connection has come to its end.
  bool Read(Connection* connection, const std::function<Answer(const CommunicatorKey&)>& answer) const;

  Descriptor loopback_;
  Descriptor outside_;
  const Token question_;
  const Token answer_;
  std::vector<Connection> connections_;
};

enum class Reached : uint8_t {
  kAnswered,
  kRefused,  // nobody listens any more, or somebody else
  kSilent,   // no answer in time, or no way there
  kUnable,   // it has said that it cannot be asked
};
struct Reply {
  Reached reached = Reached::kSilent;
  Answer answer;
};
// Asks all of them at once where they are in `communicator`; at most kMostAtOnce cards. `own_host` is the
// asker's Card::host. `patience` is in seconds, for each address. Ends early, with silence, on `stop`.
inline constexpr size_t kMostAtOnce = 64;
std::vector<Reply> Ask(const std::vector<const Card*>& cards, uint64_t own_host,
                       const CommunicatorKey& communicator, double patience, const StopSignal& stop);

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_HANG_CHANNEL_H_
