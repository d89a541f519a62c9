// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/hang/channel.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <iterator>

namespace terse::intercept {
namespace {

constexpr int kBacklog = 1024;  // every waiting rank asks the lowest one

int64_t Milliseconds() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::milliseconds(1);
}

int TimeLeft(int64_t deadline) {
  return static_cast<int>(std::clamp<int64_t>(deadline - Milliseconds(), 0, 60'000));
}

struct Endpoint {
  sockaddr_storage address{};
  socklen_t size = 0;
};

Endpoint EndpointOf(const Address& address, uint16_t port) {
  Endpoint endpoint;
  if (address.v6) {
    auto* const v6 = reinterpret_cast<sockaddr_in6*>(&endpoint.address);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    std::memcpy(&v6->sin6_addr, address.bytes.data(), 16);
    endpoint.size = sizeof(sockaddr_in6);
  } else {
    auto* const v4 = reinterpret_cast<sockaddr_in*>(&endpoint.address);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    std::memcpy(&v4->sin_addr, address.bytes.data(), 4);
    endpoint.size = sizeof(sockaddr_in);
  }
  return endpoint;
}

Address Loopback() { return {.v6 = false, .bytes = {127, 0, 0, 1}}; }

Descriptor NewSocket(int family) {
  return Descriptor(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

// At any free port, which is written to *port. What went wrong is in errno.
Descriptor Listen(const Address& address, uint16_t* port) {
  Descriptor listening = NewSocket(address.v6 ? AF_INET6 : AF_INET);
  if (!listening.open()) return listening;
  if (address.v6) {  // IPv4 comes to the same socket
    const int off = 0;
    setsockopt(listening.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  }
  Endpoint endpoint = EndpointOf(address, 0);
  auto* const socket_address = reinterpret_cast<sockaddr*>(&endpoint.address);
  if (bind(listening.get(), socket_address, endpoint.size) != 0 || listen(listening.get(), kBacklog) != 0 ||
      getsockname(listening.get(), socket_address, &endpoint.size) != 0) {
    listening.Close();
    return listening;
  }
  *port = ntohs(address.v6 ? reinterpret_cast<sockaddr_in6*>(&endpoint.address)->sin6_port
                           : reinterpret_cast<sockaddr_in*>(&endpoint.address)->sin_port);
  return listening;
}

std::vector<Address> OwnAddresses() {
  std::vector<Address> v4;
  std::vector<Address> v6;
  ifaddrs* interfaces = nullptr;
  if (getifaddrs(&interfaces) != 0) return {};
  for (const ifaddrs* i = interfaces; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || (i->ifa_flags & IFF_UP) == 0 || (i->ifa_flags & IFF_LOOPBACK) != 0)
      continue;
    Address address;
    if (i->ifa_addr->sa_family == AF_INET) {
      std::memcpy(address.bytes.data(), &reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr, 4);
      v4.push_back(address);
    } else if (i->ifa_addr->sa_family == AF_INET6) {
      const in6_addr& found = reinterpret_cast<const sockaddr_in6*>(i->ifa_addr)->sin6_addr;
      if (IN6_IS_ADDR_LINKLOCAL(&found)) continue;  // means nothing without the interface
      address.v6 = true;
      std::memcpy(address.bytes.data(), &found, 16);
      v6.push_back(address);
    }
  }
  freeifaddrs(interfaces);
  v4.insert(v4.end(), v6.begin(), v6.end());
  if (v4.size() > Card::kMostAddresses) v4.resize(Card::kMostAddresses);
  return v4;
}

// The kernel that runs and the network that is seen: containers of one host may have networks of their own.
uint64_t HostIdentity(const std::string& host_name) {
  std::string text = host_name + '\n';
  std::ifstream boot("/proc/sys/kernel/random/boot_id");
  text.append(std::istreambuf_iterator<char>(boot), {});
  char network[64];
  const ssize_t length = readlink("/proc/self/ns/net", network, sizeof(network));
  if (length > 0) text.append(network, static_cast<size_t>(length));
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// One rank that is being asked.
class Asking {
 public:
  Asking(const Card& card, bool same_host, std::string question)
      : token_(card.answer), question_(std::move(question)) {
    if (card.loopback_port == 0) {
      reply_.reached = Reached::kUnable;
      return;
    }
    if (same_host) {
      endpoints_.push_back(EndpointOf(Loopback(), card.loopback_port));
    } else {
      for (const Address& address : card.addresses) endpoints_.push_back(EndpointOf(address, card.port));
    }
  }

  bool done() const { return !socket_.open(); }
  int fd() const { return socket_.get(); }
  short events() const { return connected_ ? POLLIN : POLLOUT; }
  int64_t deadline() const { return deadline_; }
  Reply TakeReply() { return std::move(reply_); }

  // Goes on to the next address, if there is one.
  void Next(double patience) {
    socket_.Close();
    while (next_ < endpoints_.size()) {
      const Endpoint& endpoint = endpoints_[next_++];
      connected_ = false;
      bytes_.clear();
      socket_ = NewSocket(endpoint.address.ss_family);
      deadline_ = Milliseconds() + static_cast<int64_t>(patience * 1e3);
      if (socket_.open()) {
        const auto* const address = reinterpret_cast<const sockaddr*>(&endpoint.address);
        if (connect(socket_.get(), address, endpoint.size) == 0 || errno == EINPROGRESS) return;
        if (errno == ECONNREFUSED) ++refused_;
      }
      socket_.Close();
    }
    if (refused_ > 0 && refused_ == endpoints_.size()) reply_.reached = Reached::kRefused;
  }

  void OnReady(double patience) {
    if (!connected_) {
      int error = 0;
      socklen_t size = sizeof(error);
      getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &size);
      if (error == ECONNREFUSED) ++refused_;
      // A question is less than any socket's buffer.
      if (error != 0 || send(socket_.get(), question_.data(), question_.size(), MSG_NOSIGNAL) !=
                            static_cast<ssize_t>(question_.size())) {
        Next(patience);
        return;
      }
      connected_ = true;
      return;
    }
    char buffer[Answer::kMostBytes];
    const ssize_t got = recv(socket_.get(), buffer, sizeof(buffer), 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got > 0) bytes_.append(buffer, static_cast<size_t>(got));
    size_t total = 0;
    const bool may_be = AnswerBytes(bytes_, &total) && bytes_.size() <= Answer::kMostBytes;
    if (may_be && total != 0 && bytes_.size() >= total) {
      if (std::optional<Answer> answer = DecodeAnswer(bytes_, token_); answer.has_value()) {
        reply_ = {Reached::kAnswered, *std::move(answer)};
        socket_.Close();
        return;
      }
    } else if (may_be && got > 0) {
      return;
    }
    // Somebody else listens there: the rank's own process is as good as gone.
    ++refused_;
    Next(patience);
  }

 private:
  const Token token_;
  const std::string question_;
  std::vector<Endpoint> endpoints_;
  size_t next_ = 0;
  size_t refused_ = 0;
  Descriptor socket_;
  bool connected_ = false;
  int64_t deadline_ = 0;
  std::string bytes_;
  Reply reply_;
};

}  // namespace

void Descriptor::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

StopSignal::StopSignal() : event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void StopSignal::Stop() {
  stopped_.store(true, std::memory_order_release);
  const uint64_t one = 1;
  if (write(event_.get(), &one, sizeof(one)) < 0) return;  // it is readable already
}

bool StopSignal::Sleep(double seconds) const {
  pollfd waited{fd(), POLLIN, 0};
  poll(&waited, 1, static_cast<int>(seconds * 1e3));
  return !stopped();
}

Card MakeCard() {
  Card card;
  uint8_t bytes[32] = {};
  if (getrandom(bytes, sizeof(bytes), GRND_NONBLOCK) == sizeof(bytes)) {
    std::copy(bytes, bytes + 16, card.question.begin());
    std::copy(bytes + 16, bytes + 32, card.answer.begin());
  }
  char name[Card::kLongestName + 1] = {};
  if (gethostname(name, sizeof(name) - 1) == 0) card.host_name = name;
  card.pid = getpid();
  card.host = HostIdentity(card.host_name);
  card.addresses = OwnAddresses();
  return card;
}

Listener::Listener(Descriptor loopback, Descriptor outside, const Card& card)
    : loopback_(std::move(loopback)),
      outside_(std::move(outside)),
      question_(card.question),
      answer_(card.answer) {}

std::unique_ptr<Listener> Listener::Open(Card* card, std::string* error) {
  if (card->question == Token{}) {
    *error = "the system gives no random numbers";
    return nullptr;
  }
  uint16_t loopback_port = 0;
  Descriptor loopback = Listen(Loopback(), &loopback_port);
  if (!loopback.open()) {
    *error = std::string("cannot listen on the loopback address: ") + std::strerror(errno);
    return nullptr;
  }
  uint16_t port = 0;
  Descriptor outside = Listen({.v6 = true}, &port);
  if (!outside.open()) outside = Listen({.v6 = false}, &port);
  card->loopback_port = loopback_port;
  card->port = port;
  if (!outside.open()) card->addresses.clear();
  return std::unique_ptr<Listener>(new Listener(std::move(loopback), std::move(outside), *card));
}

void Listener::CloseInChild() {
  loopback_.Close();
  outside_.Close();
  connections_.clear();
}

bool Listener::Accept(int listening) {
  Descriptor socket(accept4(listening, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.open()) return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
  connections_.push_back({std::move(socket), Milliseconds() + static_cast<int64_t>(kPatience * 1e3), ""});
  return true;
}

bool Listener::Read(Connection* connection,
                    const std::function<Answer(const CommunicatorKey&)>& answer) const {
  char buffer[Question::kBytes + 1];
  const ssize_t got = recv(connection->socket.get(), buffer, sizeof(buffer) - connection->bytes.size(), 0);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got == 0) return false;
  connection->bytes.append(buffer, static_cast<size_t>(got));
  if (!MayBeQuestion(connection->bytes, question_)) return false;
  const std::optional<Question> question = DecodeQuestion(connection->bytes, question_);
  if (!question.has_value()) return true;
  const std::string bytes = Encode(answer(question->communicator), answer_);
  // Less than a socket's buffer: what does not fit is lost, and the asker takes this rank for silent.
  if (send(connection->socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) return false;
  return false;
}

void Listener::Serve(const std::function<Answer(const CommunicatorKey&)>& answer, const StopSignal& stop) {
  while (!stop.stopped()) {
    std::vector<pollfd> waited{{stop.fd(), POLLIN, 0}};
    for (const Connection& connection : connections_) waited.push_back({connection.socket.get(), POLLIN, 0});
    const size_t known = connections_.size();
    if (known < kMostConnections) {
      for (const Descriptor* listening : {&loopback_, &outside_}) {
        if (listening->open()) waited.push_back({listening->get(), POLLIN, 0});
      }
    }
    // Without a connection there is nothing that could come to its deadline.
    int timeout = -1;
    for (const Connection& connection : connections_) {
      const int left = TimeLeft(connection.deadline);
      if (timeout < 0 || left < timeout) timeout = left;
    }
    if (poll(waited.data(), waited.size(), timeout) < 0 && errno != EINTR) return;
    bool well = true;
    for (size_t i = known + 1; i < waited.size(); ++i) {
      if ((waited[i].revents & POLLNVAL) != 0) return;  // the program has closed what is not its own
      if (waited[i].revents != 0) well &= Accept(waited[i].fd);
    }
    const int64_t now = Milliseconds();
    for (size_t i = 0; i < known; ++i) {
      Connection& connection = connections_[i];
      const bool over = waited[i + 1].revents != 0 ? !Read(&connection, answer) : connection.deadline <= now;
      if (over) connection.socket.Close();
    }
    std::erase_if(connections_, [](const Connection& connection) { return !connection.socket.open(); });
    // No descriptors or memory: they may come back.
    if (!well) stop.Sleep(0.1);
  }
  connections_.clear();
}

std::vector<Reply> Ask(const std::vector<const Card*>& cards, uint64_t own_host,
                       const CommunicatorKey& communicator, double patience, const StopSignal& stop) {
  std::vector<Asking> asking;
  for (const Card* const card : cards) {
    asking.emplace_back(*card, card->host == own_host,
                        Encode(Question{.token = card->question, .communicator = communicator}));
    asking.back().Next(patience);
  }
  while (!stop.stopped()) {
    std::vector<pollfd> waited{{stop.fd(), POLLIN, 0}};
    std::vector<Asking*> open;
    int timeout = 60'000;
    for (Asking& one : asking) {
      if (one.done()) continue;
      open.push_back(&one);
      waited.push_back({one.fd(), one.events(), 0});
      timeout = std::min(timeout, TimeLeft(one.deadline()));
    }
    if (open.empty()) break;
    if (poll(waited.data(), waited.size(), timeout) < 0 && errno != EINTR) break;
    const int64_t now = Milliseconds();
    for (size_t i = 0; i < open.size(); ++i) {
      if (waited[i + 1].revents != 0) {
        open[i]->OnReady(patience);
      } else if (open[i]->deadline() <= now) {
        open[i]->Next(patience);
      }
    }
  }
  std::vector<Reply> replies;
  for (Asking& one : asking) replies.push_back(one.TakeReply());
  return replies;
}

}  // namespace terse::intercept
