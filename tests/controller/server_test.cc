// SPDX-License-Identifier: Apache-2.0
//
// terse-controller as a server: who may call, what it listens on, who watches, and that it is well.
#include <sys/stat.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "tests/controller/controller_server.h"

namespace terse::controller {
namespace {

using grpc::StatusCode;
using ::testing::HasSubstr;

TEST_F(ControllerTest, TokensHaveRoles) {
  WriteTokens();
  Start();
  v1::RegisterJobResponse registered;
  EXPECT_EQ(Call(&v1::Controller::Stub::RegisterJob, Registration(), &registered).error_code(),
            StatusCode::UNAUTHENTICATED);
  for (const char* token : {"wrong-token-0123456789", "read-token-012345678", "read-token-01234567890", ""})
    EXPECT_EQ(Call(&v1::Controller::Stub::RegisterJob, Registration(), &registered, token).error_code(),
              StatusCode::UNAUTHENTICATED);
  for (const char* token : {kReadToken, kOperateToken})
    EXPECT_EQ(Call(&v1::Controller::Stub::RegisterJob, Registration(), &registered, token).error_code(),
              StatusCode::PERMISSION_DENIED);
  ASSERT_TRUE(Call(&v1::Controller::Stub::RegisterJob, Registration(), &registered, kJobToken).ok());

  v1::ListJobsResponse jobs;
  EXPECT_EQ(Call(&v1::Controller::Stub::ListJobs, v1::ListJobsRequest(), &jobs, kJobToken).error_code(),
            StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE(Call(&v1::Controller::Stub::ListJobs, v1::ListJobsRequest(), &jobs, kReadToken).ok());
  EXPECT_EQ(jobs.jobs_size(), 1);
  v1::PinTensorRequest pin;
  pin.set_job_id(registered.job_id());
  pin.set_tensor("conv");
  pin.set_setting("none");
  v1::CommandResponse commands;
  EXPECT_EQ(Call(&v1::Controller::Stub::PinTensor, pin, &commands, kReadToken).error_code(),
            StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE(Call(&v1::Controller::Stub::PinTensor, pin, &commands, kOperateToken).ok());

  v1::ListAuditResponse audit;
  EXPECT_EQ(Call(&v1::Controller::Stub::ListAudit, v1::ListAuditRequest(), &audit, kReadToken).error_code(),
            StatusCode::PERMISSION_DENIED);
  ASSERT_TRUE(Call(&v1::Controller::Stub::ListAudit, v1::ListAuditRequest(), &audit, kOperateToken).ok());
  ASSERT_GE(audit.entries_size(), 10);
  EXPECT_EQ(audit.entries(0).who(), "reader (read)");
  EXPECT_THAT(audit.entries(0).outcome(), HasSubstr("PERMISSION_DENIED"));
  EXPECT_EQ(audit.entries(1).who(), "operator (operate)");
  EXPECT_EQ(audit.entries(1).what(), "PinTensor conv none");
  EXPECT_EQ(audit.entries(1).outcome(), "ok");
  EXPECT_EQ(audit.entries(1).job_id(), registered.job_id());
  EXPECT_THAT(audit.DebugString(), ::testing::Not(HasSubstr("token-0123")));
}

TEST_F(ControllerTest, WatchersSeeStatesAndTheLastOneOfAll) {
  Start();
  const std::string id = Register();
  grpc::ClientContext context;
  v1::WatchJobsRequest request;
  auto reader = stub_->WatchJobs(&context, request);
  v1::WatchJobsResponse response;
  ASSERT_TRUE(reader->Read(&response));
  ASSERT_EQ(response.jobs_size(), 1);
  EXPECT_EQ(response.jobs(0).step(), 0u);
  for (uint64_t step = 10; step <= 200; step += 10) Report(ReportOf(id, step));
  uint64_t seen = 0;
  while (seen < 200 && reader->Read(&response)) {
    for (const v1::Job& job : response.jobs()) {
      EXPECT_GE(job.step(), seen);
      seen = job.step();
    }
  }
  EXPECT_EQ(seen, 200u);
  // Time alone changes it, too.
  now_us_ += 60'000'000;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.jobs(0).state(), v1::JOB_STATE_SILENT);
  // A server that stops ends the stream.
  std::thread stopping([this] { server_->Stop(); });
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::UNAVAILABLE);
  stopping.join();
}

TEST_F(ControllerTest, WatchingAJobThatIsNoneIsAnError) {
  Start();
  grpc::ClientContext context;
  v1::WatchJobsRequest request;
  request.set_job_id("none");
  auto reader = stub_->WatchJobs(&context, request);
  v1::WatchJobsResponse response;
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::NOT_FOUND);
}

TEST_F(ControllerTest, OptionsThatAreNoneAreRefused) {
  const auto message = [&](const std::function<void(ServerOptions*)>& spoil) {
    ServerOptions options = options_;
    spoil(&options);
    return std::string(Server::Start(options).status().message());
  };
  EXPECT_THAT(message([](auto* o) { o->listen = "0.0.0.0:0"; }), HasSubstr("--tokens FILE, or --open"));
  EXPECT_THAT(message([](auto* o) { o->listen = "127.0.0.1:99999"; }), HasSubstr("a port of 0 to 65535"));
  EXPECT_THAT(message([](auto* o) { o->tokens = "/no/such"; }),
              HasSubstr("--tokens: cannot read the tokens /no/such"));
  EXPECT_THAT(message([](auto* o) { o->certificate = "/no/such"; }), HasSubstr("go together"));
  EXPECT_THAT(message([](auto* o) { o->certificate = o->key = "/no/such"; }),
              HasSubstr("--tls-cert: cannot read /no/such"));
  EXPECT_THAT(message([](auto* o) { o->store = "/no/such/store"; }),
              HasSubstr("cannot open the store /no/such/store"));
  const std::string text = (folder_ / "text").string();
  std::ofstream(text) << std::string(5000, 'x');
  EXPECT_THAT(message([&](auto* o) { o->store = text; }), HasSubstr("file is not a database"));
  WriteTokens();
  chmod(options_.tokens.c_str(), 0644);
  EXPECT_THAT(message([](auto*) {}), HasSubstr("run chmod 600"));
  options_.tokens.clear();
  Start();
  EXPECT_THAT(message([](auto*) {}), HasSubstr("another terse-controller uses it"));
  EXPECT_THAT(message([this](auto* o) {
                o->store = ":memory:";
                o->listen = "127.0.0.1:" + std::to_string(server_->port());
              }),
              HasSubstr("cannot listen on"));
}

TEST_F(ControllerTest, HealthAndReflectionAreThere) {
  WriteTokens();  // which these do without
  Start();
  grpc::GenericStub stub(channel_);
  const auto call = [&](const std::string& method, const std::string& request) {
    grpc::CompletionQueue queue;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    const auto step = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    auto stream = stub.PrepareCall(&context, method, &queue);
    stream->StartCall(nullptr);
    EXPECT_TRUE(step());
    const grpc::Slice slice(request);
    stream->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
    EXPECT_TRUE(step());
    grpc::ByteBuffer answer;
    stream->Read(&answer, nullptr);
    EXPECT_TRUE(step()) << method;
    std::vector<grpc::Slice> slices;
    EXPECT_TRUE(answer.Dump(&slices).ok());
    std::string text;
    for (const grpc::Slice& part : slices)
      text.append(reinterpret_cast<const char*>(part.begin()), part.size());
    grpc::Status status;
    stream->Finish(&status, nullptr);
    step();
    EXPECT_TRUE(status.ok()) << method << ": " << status.error_message();
    queue.Shutdown();
    return text;
  };
  EXPECT_EQ(call("/grpc.health.v1.Health/Check", ""), std::string("\x08\x01", 2)) << "status: SERVING";
  // list_services, field 7 of the request.
  EXPECT_THAT(
      call("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", std::string("\x3a\x00", 2)),
      HasSubstr("terse.v1.Controller"));
}

TEST(TokensTest, LinesThatAreNoneAreRefusedWithoutTheirTokens) {
  const auto message = [](const std::string& text) {
    return std::string(Tokens::Parse(text).status().message());
  };
  EXPECT_THAT(message(""), HasSubstr("there is no token"));
  EXPECT_THAT(message("admin me 0123456789abcdef"),
              HasSubstr("line 1: a line is ROLE NAME TOKEN, and ROLE is"));
  EXPECT_THAT(message("read me\n"), HasSubstr("line 1: a line is ROLE NAME TOKEN"));
  EXPECT_THAT(message("read me 0123456789abcdef more"), HasSubstr("line 1: "));
  EXPECT_THAT(message("\nread me short"), HasSubstr("line 2: the token is shorter than 16"));
  EXPECT_THAT(message("read me 0123456789abcdef\noperate you 0123456789abcdef"),
              HasSubstr("line 2: the token is another line's"));
}

}  // namespace
}  // namespace terse::controller
