// SPDX-License-Identifier: Apache-2.0
//
// The link from a job to a terse-controller: a real server in this process, that comes late, goes, comes
// back, asks for tokens and certificates, and a job that never waits for it.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "runtime/controller/grpc/grpc_link.h"
#include "runtime/controller/service/server.h"

namespace terse::controller {
namespace {

using ::testing::HasSubstr;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kPatience{30};

// Waits for something that another thread brings about.
bool Eventually(const std::function<bool()>& true_yet) {
  for (const auto end = Clock::now() + kPatience; Clock::now() < end;) {
    if (true_yet()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return false;
}

// A way to a controller on which every connection stands still for a while before the first byte comes back.
class SlowWay {
 public:
  SlowWay(int to, std::chrono::milliseconds wait) : to_(to), wait_(wait) {
    sockaddr_in address = Local(0);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_, 16), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Carry(); });
  }
  ~SlowWay() {
    closing_ = true;
    thread_.join();
    close(listener_);
  }

  int port() const { return port_; }
  int connections() const { return connections_; }

 private:
  static sockaddr_in Local(int port) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }

  bool Readable(int socket) const {
    pollfd wanted{.fd = socket, .events = POLLIN, .revents = 0};
    return poll(&wanted, 1, 1) > 0;
  }

  // One connection after the other.
  void Carry() {
    while (!closing_) {
      if (!Readable(listener_)) continue;
      const int near = accept(listener_, nullptr, nullptr);
      ++connections_;
      std::this_thread::sleep_for(wait_);
      const int far = socket(AF_INET, SOCK_STREAM, 0);
      const sockaddr_in address = Local(to_);
      bool open = connect(far, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
      while (open && !closing_) open = Pass(near, far) && Pass(far, near);
      close(near);
      close(far);
    }
  }

  bool Pass(int from, int to) const {
    if (!Readable(from)) return true;
    std::array<char, 4096> bytes;
    const ssize_t got = read(from, bytes.data(), bytes.size());
    return got > 0 && send(to, bytes.data(), static_cast<size_t>(got), MSG_NOSIGNAL) == got;
  }

  const int to_;
  const std::chrono::milliseconds wait_;
  const int listener_ = socket(AF_INET, SOCK_STREAM, 0);
  int port_ = 0;
  std::atomic<bool> closing_ = false;
  std::atomic<int> connections_ = 0;
  std::thread thread_;
};

class LinkTest : public ::testing::Test {
 protected:
  LinkTest() {
    char name[] = "/tmp/terse_link_XXXXXX";
    folder_ = mkdtemp(name);
    options_.listen = "127.0.0.1:0";
    options_.store = Path("store.db");
    EXPECT_TRUE(settings_.Set("policy.name", "lgreco", wire::Origin::kFlag).ok());
  }
  ~LinkTest() override {
    link_.reset();
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  void Write(const std::string& name, const std::string& text) const { std::ofstream(Path(name)) << text; }
  void Set(const std::string& key, const std::string& value) {
    EXPECT_TRUE(settings_.Set(key, value, wire::Origin::kFlag).ok()) << key;
  }

  // On the same port as before, if there was one.
  void Serve() {
    server_.reset();
    if (port_ != 0) options_.listen = "127.0.0.1:" + std::to_string(port_);
    auto server = Server::Start(options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    port_ = server_->port();
  }

  void Connect(const std::string& host = "127.0.0.1") {
    Set("controller.address", host + ":" + std::to_string(port_));
    auto link = GrpcLink::Open(settings_.config());
    ASSERT_TRUE(link.ok()) << link.status();
    link_ = *std::move(link);
  }

  std::shared_ptr<const JobDescription> Description(const std::string& name = "w") const {
    auto job = std::make_shared<JobDescription>();
    job->name = "test";
    job->world_size = 2;
    job->config = wire::AgreedText(settings_.config());
    job->tensors.push_back({.id = 0, .name = name, .elements = 512 * 512, .shape = {512, 512}});
    job->tensors.push_back({.id = 1, .name = "v", .elements = 512 * 512, .shape = {512, 512}});
    return job;
  }

  // Errors by which 4 bits everywhere are not the best.
  JobReport Report(uint64_t step, uint32_t version = 0,
                   const std::vector<std::string>& tensors = {"quantize:4", "quantize:4"}) const {
    JobReport report{.step = step, .version = version};
    for (size_t t = 0; t < tensors.size(); ++t) {
      TensorReport tensor{.setting = tensors[t], .path = "quantize", .norm = 1};
      tensor.squared_error.push_back(0);
      for (int bits = 2; bits <= 8; ++bits)
        tensor.squared_error.push_back((t == 0 ? 1e4 : 1.0) / static_cast<double>(1 << (2 * bits)));
      report.tensors.push_back(std::move(tensor));
    }
    return report;
  }

  bool Says(const std::string& what) {
    const bool came = Eventually([&] { return link_->state().what.find(what) != std::string::npos; });
    EXPECT_TRUE(came) << link_->state().what;
    return came;
  }

  std::filesystem::path folder_;
  wire::Settings settings_;
  ServerOptions options_;
  int port_ = 0;
  std::unique_ptr<Server> server_;
  std::unique_ptr<GrpcLink> link_;
};

TEST_F(LinkTest, BringsOrders) {
  Serve();
  Connect();
  EXPECT_FALSE(link_->Take().has_value());
  link_->Post(Description(), Report(100));
  ASSERT_TRUE(Says("connected as test-1, reported step 100"));
  const std::optional<Order> order = link_->Take();
  ASSERT_TRUE(order.has_value());
  EXPECT_EQ(order->follows, 0u);
  ASSERT_EQ(order->settings.size(), 2u);
  EXPECT_NE(order->settings[0], order->settings[1]);
  EXPECT_THAT(order->why, HasSubstr("lgreco: "));
  EXPECT_GT(order->lower_bound, 0);
  EXPECT_FALSE(link_->Take().has_value()) << "taken";
  link_->Post(nullptr, Report(200, 1, order->settings));
  ASSERT_TRUE(Says("reported step 200"));
  EXPECT_TRUE(link_->state().connected);
  EXPECT_EQ(link_->state().reports, 2u);
  EXPECT_EQ(link_->state().orders, 1u);
}

TEST_F(LinkTest, SaysThatTheJobIsOver) {
  Serve();
  Connect();
  link_->Post(Description(), Report(100));
  ASSERT_TRUE(Says("reported step 100"));
  link_.reset();
  auto stub = v1::Controller::NewStub(
      grpc::CreateChannel("127.0.0.1:" + std::to_string(port_), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  v1::GetJobRequest request;
  request.set_job_id("test-1");
  v1::Job job;
  ASSERT_TRUE(stub->GetJob(&context, request, &job).ok());
  EXPECT_EQ(job.state(), v1::JOB_STATE_FINISHED);
}

TEST_F(LinkTest, AControllerMayComeLateAndGoAndComeBack) {
  Serve();
  server_.reset();
  Connect();
  const auto begin = Clock::now();
  for (uint64_t step = 100; step <= 1000; step += 100)
    link_->Post(step == 100 ? Description() : nullptr, Report(step));
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(5)) << "nobody waits";
  ASSERT_TRUE(Says("registering: "));
  EXPECT_FALSE(link_->state().connected);
  Serve();
  ASSERT_TRUE(Says("reported step 1000")) << "the newest alone";
  EXPECT_TRUE(link_->state().connected);
  server_.reset();
  link_->Post(nullptr, Report(1100));
  ASSERT_TRUE(Says("reporting: "));
  EXPECT_EQ(link_->state().losses, 1u);
  link_->Post(nullptr, Report(1200));
  Serve();
  ASSERT_TRUE(Says("connected as test-1, reported step 1200"));
  // One that has lost its store is told anew whose report it is.
  options_.store = Path("another.db");
  Serve();
  link_->Post(nullptr, Report(1300));
  ASSERT_TRUE(Says("connected as test-1, reported step 1300"));
  EXPECT_EQ(server_->jobs(), 1u);
}

TEST_F(LinkTest, AControllerThatIsSlowToAnswerIsWaitedFor) {
  Serve();
  const SlowWay way(port_, std::chrono::milliseconds(700));
  port_ = way.port();
  Connect();
  link_->Post(Description(), Report(100));
  ASSERT_TRUE(Says("connected as test-1, reported step 100"));
  EXPECT_EQ(way.connections(), 1) << "attempts to connect are given up too early";
  link_.reset();
}

TEST_F(LinkTest, AControllerThatHasTooMuchToDoIsNotLost) {
  Serve();
  Connect();
  link_->Post(Description(), Report(100));
  ASSERT_TRUE(Says("reported step 100"));
  options_.store = Path("another.db");
  options_.most_jobs = 0;
  Serve();
  link_->Post(nullptr, Report(200));
  ASSERT_TRUE(Says("registering: 0 jobs run"));
  EXPECT_EQ(link_->state().losses, 0u);
  // It is tried again.
  options_.most_jobs = 1;
  Serve();
  EXPECT_TRUE(Says("reported step 200"));
}

TEST_F(LinkTest, AJobThatGrowsRegistersAgain) {
  Serve();
  Connect();
  link_->Post(Description(), Report(100));
  ASSERT_TRUE(Says("reported step 100"));
  auto grown = std::make_shared<JobDescription>(*Description());
  grown->tensors.push_back({.id = 2, .name = "u", .elements = 512 * 512, .shape = {512, 512}});
  link_->Post(grown, Report(200, 0, {"quantize:4", "quantize:4", "quantize:4"}));
  ASSERT_TRUE(Says("connected as test-1, reported step 200"));
  // State that was loaded: steps begin again, which a report alone must not.
  link_->Post(nullptr, Report(50, 0, {"quantize:4", "quantize:4", "quantize:4"}));
  ASSERT_TRUE(Says("connected as test-1, reported step 50"));
}

TEST_F(LinkTest, NamesMayBeAnyBytes) {
  Serve();
  Connect();
  link_->Post(Description("caf\xc3\xa9 \xff\xfe"), Report(100));
  EXPECT_TRUE(Says("reported step 100"));
}

TEST_F(LinkTest, WhatIsRefusedIsSaidAndNotSentAgain) {
  Serve();
  Connect();
  JobReport bad = Report(100);
  bad.tensors[0].norm = -1;
  link_->Post(Description(), bad);
  ASSERT_TRUE(Says("reporting: tensors[0]: a number is -1"));
  link_->Post(nullptr, Report(200));
  EXPECT_TRUE(Says("reported step 200"));
}

TEST_F(LinkTest, AWrongTokenIsSaid) {
  Write("tokens", "job jobs right-token-0123456789\n");
  chmod(Path("tokens").c_str(), 0600);
  options_.tokens = Path("tokens");
  Serve();
  Set("controller.token_file", Path("token"));
  Write("token", "wrong-token-0123456789\n");
  Connect();
  link_->Post(Description(), Report(100));
  EXPECT_TRUE(Says("registering: the token is nobody's"));
  Write("token", "  right-token-0123456789\n\n");
  Connect();
  link_->Post(Description(), Report(100));
  EXPECT_TRUE(Says("reported step 100"));
}

TEST_F(LinkTest, FilesThatCannotBeReadAreErrors) {
  const auto message = [this] { return std::string(GrpcLink::Open(settings_.config()).status().message()); };
  Set("controller.address", "127.0.0.1:1");
  Set("controller.token_file", "/no/such");
  EXPECT_THAT(message(), HasSubstr("controller.token_file: cannot read /no/such"));
  Write("token", " \n");
  Set("controller.token_file", Path("token"));
  EXPECT_THAT(message(), HasSubstr("is empty"));
  Write("token", "0123456789abcdef");
  Set("tls.ca", "/no/such");
  EXPECT_THAT(message(), HasSubstr("tls.ca: cannot read /no/such"));
}

TEST_F(LinkTest, MutualTls) {
  // An authority, and a certificate of it for each side.
  const std::string make =
      "cd " + folder_.string() +
      " && exec 2>/dev/null && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
      " -subj /CN=authority -keyout ca.key -out ca.pem"
      " && for side in server client; do openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
      " -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout $side.key -out $side.csr"
      " && openssl x509 -req -in $side.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2"
      " -copy_extensions copy -out $side.pem || exit 1; done";
  ASSERT_EQ(std::system(make.c_str()), 0) << "openssl";
  options_.certificate = Path("server.pem");
  options_.key = Path("server.key");
  options_.clients = Path("ca.pem");
  Serve();
  Connect("localhost");
  link_->Post(Description(), Report(100));
  ASSERT_TRUE(Says("registering: ")) << "in clear";
  Set("tls.ca", Path("ca.pem"));
  Connect("localhost");
  link_->Post(Description(), Report(100));
  ASSERT_TRUE(Says("registering: ")) << "without a certificate";
  Set("tls.cert", Path("client.pem"));
  Set("tls.key", Path("client.key"));
  Connect("localhost");
  link_->Post(Description(), Report(100));
  EXPECT_TRUE(Says("reported step 100"));
}

}  // namespace
}  // namespace terse::controller
