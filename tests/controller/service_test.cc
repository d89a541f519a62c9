// SPDX-License-Identifier: Apache-2.0
//
// terse-controller as its callers see it: a server in this process, over a real channel.
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "proto/terse/v1/controller.grpc.pb.h"
#include "proto/wire/config.h"
#include "runtime/controller/service/server.h"

namespace terse::controller {
namespace {

using grpc::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kReadToken[] = "read-token-0123456789";
constexpr char kOperateToken[] = "operate-token-0123456789";
constexpr char kJobToken[] = "job-token-0123456789";

std::string ConfigText(const std::vector<std::pair<std::string, std::string>>& keys) {
  wire::Settings settings;
  for (const auto& [key, value] : keys)
    EXPECT_TRUE(settings.Set(key, value, wire::Origin::kFlag).ok()) << key;
  return wire::AgreedText(settings.config());
}

v1::RegisterJobRequest Registration(const std::string& instance = std::string(16, 'i')) {
  v1::RegisterJobRequest request;
  request.set_instance(instance);
  request.set_name("train me");
  request.set_host("node1");
  request.set_world_size(4);
  request.set_config(ConfigText({{"policy.name", "lgreco"}, {"policy.interval", "10"}}));
  for (const auto& [name, rows, columns] :
       {std::tuple("conv", 256, 128), std::tuple("fc", 512, 1024), std::tuple("bias", 1, 64)}) {
    v1::TensorInfo& tensor = *request.add_tensors();
    tensor.set_name(name);
    tensor.add_shape(rows);
    tensor.add_shape(columns);
  }
  return request;
}

// What a job says that goes by `settings`, with gradients for which lgreco changes something.
v1::ReportStepRequest ReportOf(const std::string& job, uint64_t step, uint32_t version = 0,
                               const std::vector<std::string>& settings = {"quantize:4", "quantize:4",
                                                                           "none"},
                               const std::string& instance = std::string(16, 'i')) {
  v1::ReportStepRequest report;
  report.set_job_id(job);
  report.set_instance(instance);
  report.set_step(step);
  report.set_version(version);
  report.set_step_ms(5);
  for (size_t t = 0; t < settings.size(); ++t) {
    v1::TensorState& tensor = *report.add_tensors();
    tensor.set_setting(settings[t]);
    tensor.set_reason("because");
    tensor.set_path(settings[t].substr(0, settings[t].find(':')));
    tensor.set_bytes_sent(10);
    tensor.set_dense_bytes(70);
    if (t == 2) continue;
    tensor.set_norm(1);
    tensor.add_squared_error(0);
    for (int bits = 2; bits <= 8; ++bits)
      tensor.add_squared_error((t == 0 ? 100.0 : 1.0) / std::pow(4, bits));
  }
  return report;
}

class ControllerTest : public ::testing::Test {
 protected:
  ControllerTest() {
    char name[] = "/tmp/terse_service_XXXXXX";
    folder_ = mkdtemp(name);
    options_.listen = "127.0.0.1:0";
    options_.store = (folder_ / "store.db").string();
  }
  ~ControllerTest() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Start() {
    server_.reset();
    auto server = Server::Start(options_, [this] { return now_us_.load(); });
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->port()),
                                   grpc::InsecureChannelCredentials());
    stub_ = v1::Controller::NewStub(channel_);
  }

  void WriteTokens() {
    options_.tokens = (folder_ / "tokens").string();
    std::ofstream(options_.tokens) << "# who may what\nread reader " << kReadToken << "\noperate operator "
                                   << kOperateToken << "\njob jobs " << kJobToken << "\n";
    chmod(options_.tokens.c_str(), 0600);
  }

  // Calls a method; the token is sent if there is one.
  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (v1::Controller::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                 Response*),
                    const Request& request, Response* response, const std::string& token = "") {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
    return (stub_.get()->*method)(&context, request, response);
  }

  std::string Register(const v1::RegisterJobRequest& request = Registration()) {
    v1::RegisterJobResponse response;
    const grpc::Status status = Call(&v1::Controller::Stub::RegisterJob, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.job_id();
  }
  v1::ReportStepResponse Report(const v1::ReportStepRequest& report) {
    v1::ReportStepResponse response;
    const grpc::Status status = Call(&v1::Controller::Stub::ReportStep, report, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  StatusCode ReportCode(const v1::ReportStepRequest& report, std::string* message = nullptr) {
    v1::ReportStepResponse response;
    const grpc::Status status = Call(&v1::Controller::Stub::ReportStep, report, &response);
    if (message != nullptr) *message = status.error_message();
    return status.error_code();
  }
  v1::Job Get(const std::string& id) {
    v1::GetJobRequest request;
    request.set_job_id(id);
    v1::Job job;
    EXPECT_TRUE(Call(&v1::Controller::Stub::GetJob, request, &job).ok());
    return job;
  }
  std::vector<v1::Plan> Plans(const std::string& id) {
    v1::ListPlansRequest request;
    request.set_job_id(id);
    v1::ListPlansResponse response;
    EXPECT_TRUE(Call(&v1::Controller::Stub::ListPlans, request, &response).ok());
    return {response.plans().begin(), response.plans().end()};
  }
  grpc::Status Pin(const std::string& id, const std::string& tensor, const std::string& setting) {
    v1::PinTensorRequest request;
    request.set_job_id(id);
    request.set_tensor(tensor);
    request.set_setting(setting);
    v1::CommandResponse response;
    return Call(&v1::Controller::Stub::PinTensor, request, &response);
  }

  std::filesystem::path folder_;
  ServerOptions options_;
  std::atomic<int64_t> now_us_{1'000'000'000};
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Controller::Stub> stub_;
};

std::vector<std::string> SettingsOf(const v1::Order& order) {
  return {order.settings().begin(), order.settings().end()};
}

TEST_F(ControllerTest, AJobReportsAndIsGivenAPlanThatTheHistoryKeeps) {
  Start();
  const std::string id = Register();
  EXPECT_EQ(id, "train-me-1");
  const v1::ReportStepResponse first = Report(ReportOf(id, 10));
  ASSERT_TRUE(first.has_order());
  EXPECT_EQ(first.order().follows(), 0u);
  EXPECT_THAT(first.order().outcome().why(), HasSubstr("lgreco: "));
  EXPECT_GT(first.order().outcome().lower_bound(), 0);
  const std::vector<std::string> settings = SettingsOf(first.order());
  EXPECT_NE(settings, (std::vector<std::string>{"quantize:4", "quantize:4", "none"}));
  EXPECT_EQ(first.SerializeAsString(), Report(ReportOf(id, 10)).SerializeAsString())
      << "the same, sent again";

  v1::ReportStepRequest taken = ReportOf(id, 20, 1, settings);
  taken.set_since(20);
  taken.set_why("as ordered");
  EXPECT_FALSE(Report(taken).has_order());
  const v1::Job job = Get(id);
  EXPECT_EQ(job.step(), 20u);
  EXPECT_EQ(job.plan_version(), 1u);
  EXPECT_EQ(job.plan_since(), 20u);
  EXPECT_EQ(job.state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(job.bytes_sent(), 30);
  EXPECT_EQ(job.dense_bytes(), 210);
  EXPECT_EQ(job.compressed_tensors(), 2u);
  EXPECT_EQ(job.policy(), "lgreco");
  EXPECT_THAT(job.last_decision(), HasSubstr("would gain less"));
  EXPECT_THAT(job.config(), HasSubstr("policy.interval = 10"));

  const std::vector<v1::Plan> plans = Plans(id);
  ASSERT_EQ(plans.size(), 2u);
  EXPECT_EQ(plans[0].version(), 0u);
  EXPECT_EQ(plans[0].rows_size(), 3) << "all of the first";
  EXPECT_TRUE(plans[1].taken());
  EXPECT_EQ(plans[1].step(), 20u);
  EXPECT_EQ(plans[1].decided_us(), now_us_);
  EXPECT_LE(plans[1].rows_size(), 2) << "what it changed";
  EXPECT_THAT(plans[1].outcome().why(), HasSubstr("lgreco: "))
      << "why it was made, not what the job said of it";
}

TEST_F(ControllerTest, CommandsAreInForceFromTheNextReportOn) {
  Start();
  const std::string id = Register();
  Report(ReportOf(id, 10));
  ASSERT_TRUE(Pin(id, "conv", "topk:0.02").ok());
  v1::ReportStepResponse answer = Report(ReportOf(id, 20));
  ASSERT_TRUE(answer.has_order());
  EXPECT_EQ(answer.order().settings(0), "topk:0.02");
  EXPECT_EQ(answer.order().reasons(0), "pinned by an operator");

  v1::ForceDenseRequest dense;
  dense.set_job_id(id);
  dense.set_on(true);
  v1::CommandResponse commands;
  ASSERT_TRUE(Call(&v1::Controller::Stub::ForceDense, dense, &commands).ok());
  EXPECT_TRUE(commands.commands().force_dense());
  EXPECT_EQ(commands.commands().pins().at("conv"), "topk:0.02");
  EXPECT_THAT(SettingsOf(Report(ReportOf(id, 30)).order()), ElementsAre("none", "none", "none"));

  v1::PauseAdaptationRequest pause;
  pause.set_job_id(id);
  pause.set_paused(true);
  ASSERT_TRUE(Call(&v1::Controller::Stub::PauseAdaptation, pause, &commands).ok());
  dense.set_on(false);
  ASSERT_TRUE(Call(&v1::Controller::Stub::ForceDense, dense, &commands).ok());
  v1::UnpinTensorRequest unpin;
  unpin.set_job_id(id);
  unpin.set_tensor("conv");
  ASSERT_TRUE(Call(&v1::Controller::Stub::UnpinTensor, unpin, &commands).ok());
  EXPECT_TRUE(commands.commands().pins().empty());
  EXPECT_FALSE(Report(ReportOf(id, 40)).has_order()) << Get(id).last_decision();
  EXPECT_EQ(Get(id).last_decision(), "adaptation is paused by an operator");
  pause.set_paused(false);
  ASSERT_TRUE(Call(&v1::Controller::Stub::PauseAdaptation, pause, &commands).ok());
  v1::SetBudgetRequest budget;
  budget.set_job_id(id);
  budget.set_alpha(3);
  ASSERT_TRUE(Call(&v1::Controller::Stub::SetBudget, budget, &commands).ok());
  EXPECT_EQ(commands.commands().alpha(), 3);
  EXPECT_TRUE(Report(ReportOf(id, 50)).has_order());

  EXPECT_EQ(Pin(id, "no such", "none").error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(Pin(id, "conv", "zip").error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Pin(id, "bias", "topk:0.1").error_code(), StatusCode::INVALID_ARGUMENT) << "it is too small";
  EXPECT_EQ(Pin("nobody-7", "conv", "none").error_code(), StatusCode::NOT_FOUND);
  for (const double alpha : {0.0, -1.0, std::nan(""), HUGE_VAL}) {
    budget.set_alpha(alpha);
    EXPECT_EQ(Call(&v1::Controller::Stub::SetBudget, budget, &commands).error_code(),
              StatusCode::INVALID_ARGUMENT);
  }
  EXPECT_EQ(Get(id).commands().alpha(), 3) << "what was refused has changed nothing";
}

TEST_F(ControllerTest, ARestartLosesNeitherJobsNorPlansNorCommands) {
  Start();
  const std::string id = Register();
  const v1::ReportStepResponse ordered = Report(ReportOf(id, 10));
  ASSERT_TRUE(Pin(id, "fc", "onebit").ok());
  Start();
  EXPECT_EQ(Get(id).commands().pins().at("fc"), "onebit");
  ASSERT_EQ(Plans(id).size(), 2u);
  EXPECT_FALSE(Plans(id)[1].taken());
  // The job has taken the order up meanwhile, and knows nothing of a restart.
  const std::vector<std::string> settings = SettingsOf(ordered.order());
  v1::ReportStepRequest report = ReportOf(id, 20, 1, settings);
  report.set_since(20);
  const v1::ReportStepResponse next = Report(report);
  EXPECT_TRUE(Plans(id)[1].taken());
  ASSERT_TRUE(next.has_order());
  EXPECT_EQ(next.order().follows(), 1u);
  EXPECT_EQ(next.order().settings(1), "onebit");
  EXPECT_EQ(Register(), id) << "the same instance";
  EXPECT_EQ(Register(Registration(std::string(16, 'j'))), "train-me-2");

  // A store that was lost: the job brings its plan along.
  options_.store = (folder_ / "another.db").string();
  Start();
  EXPECT_EQ(ReportCode(report), StatusCode::NOT_FOUND);
  const std::string again = Register();
  report.set_job_id(again);
  Report(report);
  EXPECT_EQ(Plans(again).front().version(), 1u);
  EXPECT_EQ(Plans(again).front().rows(0).setting(), settings[0]);
}

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

TEST_F(ControllerTest, RegistrationsThatAreNoneAreRefused) {
  Start();
  const auto message = [&](const std::function<void(v1::RegisterJobRequest*)>& spoil) {
    v1::RegisterJobRequest request = Registration();
    spoil(&request);
    v1::RegisterJobResponse response;
    const grpc::Status status = Call(&v1::Controller::Stub::RegisterJob, request, &response);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << status.error_message();
    return status.error_message();
  };
  EXPECT_THAT(message([](auto* r) { r->set_instance("short"); }), HasSubstr("instance: 5 bytes"));
  EXPECT_THAT(message([](auto* r) { r->set_name(""); }), HasSubstr("name: "));
  EXPECT_THAT(message([](auto* r) { r->set_name("a\nb"); }), HasSubstr("name: "));
  EXPECT_THAT(message([](auto* r) { r->set_world_size(0); }), HasSubstr("world_size: 0"));
  EXPECT_THAT(message([](auto* r) { r->set_config("what = is this\n"); }), HasSubstr("config: unknown key"));
  EXPECT_THAT(message([](auto* r) { r->set_config("seed\n"); }), HasSubstr("config: a line is"));
  EXPECT_THAT(message([](auto* r) { r->set_config("topk.density = nan\n"); }),
              HasSubstr("config: topk.density"));
  EXPECT_THAT(message([](auto* r) { r->mutable_tensors(1)->set_name("conv"); }),
              HasSubstr("tensors[1].name: 'conv' is there twice"));
  EXPECT_THAT(message([](auto* r) { r->mutable_tensors(1)->set_dtype(77); }),
              HasSubstr("tensors[1].dtype: 77"));
  EXPECT_THAT(message([](auto* r) { r->mutable_tensors(2)->set_shape(0, -3); }),
              HasSubstr("tensors[2].shape"));
  EXPECT_THAT(
      message([](auto* r) { r->mutable_tensors(2)->set_shape(0, std::numeric_limits<int64_t>::max()); }),
      HasSubstr("tensors[2].shape"));
  v1::ListJobsResponse jobs;
  ASSERT_TRUE(Call(&v1::Controller::Stub::ListJobs, v1::ListJobsRequest(), &jobs).ok());
  EXPECT_EQ(jobs.jobs_size(), 0);
}

TEST_F(ControllerTest, ReportsThatAreNoneAreRefusedAndNothingIsLost) {
  Start();
  const std::string id = Register();
  Report(ReportOf(id, 10));
  const std::string before = Get(id).SerializeAsString();
  const auto refused = [&](StatusCode code, const std::function<void(v1::ReportStepRequest*)>& spoil) {
    v1::ReportStepRequest report = ReportOf(id, 20);
    spoil(&report);
    std::string message;
    EXPECT_EQ(ReportCode(report, &message), code) << message;
    EXPECT_EQ(Get(id).SerializeAsString(), before);
    return message;
  };
  const auto invalid = [&](const auto& spoil) { return refused(StatusCode::INVALID_ARGUMENT, spoil); };
  EXPECT_THAT(invalid([](auto* r) { r->mutable_tensors()->RemoveLast(); }),
              HasSubstr("tensors: 2, where 3 are registered"));
  EXPECT_THAT(invalid([](auto* r) { r->mutable_tensors(0)->mutable_squared_error()->RemoveLast(); }),
              HasSubstr("tensors[0].squared_error: 7 numbers for 8"));
  for (const double number : {std::nan(""), HUGE_VAL, -1.0}) {
    EXPECT_THAT(invalid([&](auto* r) { r->mutable_tensors(1)->set_squared_error(3, number); }),
                HasSubstr("tensors[1].squared_error: "));
    EXPECT_THAT(invalid([&](auto* r) { r->mutable_tensors(1)->set_norm(number); }),
                HasSubstr("tensors[1]: a number is"));
    EXPECT_THAT(invalid([&](auto* r) { r->set_step_ms(number); }), HasSubstr("step_ms"));
  }
  EXPECT_THAT(invalid([](auto* r) { r->mutable_tensors(1)->set_setting("quantize:99"); }),
              HasSubstr("tensors[1].setting: 'quantize:99'"));
  EXPECT_THAT(invalid([](auto* r) { r->mutable_tensors(2)->set_setting("topk:0.5"); }),
              HasSubstr("stays dense"));
  EXPECT_THAT(invalid([](auto* r) { r->set_since(21); }), HasSubstr("since: 21 is beyond step 20"));
  EXPECT_THAT(invalid([](auto* r) { r->mutable_tensors(0)->set_reason(std::string(2000, 'x')); }),
              HasSubstr("tensors[0].reason"));
  EXPECT_THAT(invalid([](auto* r) { r->set_why("two\nlines"); }), HasSubstr("why: "));
  EXPECT_THAT(refused(StatusCode::FAILED_PRECONDITION, [](auto* r) { r->set_step(9); }),
              HasSubstr("is behind step 10"));
  EXPECT_THAT(
      refused(StatusCode::FAILED_PRECONDITION, [](auto* r) { r->set_instance(std::string(16, 'x')); }),
      HasSubstr("another instance"));
  EXPECT_THAT(refused(StatusCode::NOT_FOUND, [](auto* r) { r->set_job_id("train-me-9"); }),
              HasSubstr("no job 'train-me-9'"));
  // Larger than a message may be.
  EXPECT_THAT(
      refused(StatusCode::RESOURCE_EXHAUSTED, [](auto* r) { r->set_why(std::string(65 << 20, 'x')); }),
      HasSubstr("larger than max"));

  // An older plan, played again.
  Report(ReportOf(id, 30, 2));
  std::string message;
  EXPECT_EQ(ReportCode(ReportOf(id, 40, 1), &message), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(message, HasSubstr("plan 1 is behind step 30 and plan 2"));
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

TEST_F(ControllerTest, JobsThatAreOverMakeRoom) {
  options_.most_jobs = 3;
  Start();
  std::vector<std::string> ids;
  for (char c : {'a', 'b', 'c'}) {
    ids.push_back(Register(Registration(std::string(16, c))));
    now_us_ += 1000;
    Report(ReportOf(ids.back(), 10, 0, {"quantize:4", "quantize:4", "none"}, std::string(16, c)));
  }
  v1::RegisterJobResponse registered;
  EXPECT_EQ(
      Call(&v1::Controller::Stub::RegisterJob, Registration(std::string(16, 'd')), &registered).error_code(),
      StatusCode::RESOURCE_EXHAUSTED);
  v1::RemoveJobRequest remove;
  remove.set_job_id(ids[0]);
  v1::RemoveJobResponse removed;
  EXPECT_EQ(Call(&v1::Controller::Stub::RemoveJob, remove, &removed).error_code(),
            StatusCode::FAILED_PRECONDITION);
  v1::FinishJobRequest finish;
  finish.set_job_id(ids[1]);
  finish.set_instance(std::string(16, 'x'));
  v1::FinishJobResponse finished;
  EXPECT_EQ(Call(&v1::Controller::Stub::FinishJob, finish, &finished).error_code(),
            StatusCode::FAILED_PRECONDITION);
  finish.set_instance(std::string(16, 'b'));
  ASSERT_TRUE(Call(&v1::Controller::Stub::FinishJob, finish, &finished).ok());
  EXPECT_EQ(Get(ids[1]).state(), v1::JOB_STATE_FINISHED);
  EXPECT_EQ(Register(Registration(std::string(16, 'd'))), "train-me-4");
  v1::ListJobsResponse jobs;
  ASSERT_TRUE(Call(&v1::Controller::Stub::ListJobs, v1::ListJobsRequest(), &jobs).ok());
  EXPECT_EQ(jobs.jobs_size(), 3);
  EXPECT_EQ(ReportCode(ReportOf(ids[1], 20, 0, {"quantize:4", "quantize:4", "none"}, std::string(16, 'b'))),
            StatusCode::NOT_FOUND);
  now_us_ += 60'000'000;
  ASSERT_TRUE(Call(&v1::Controller::Stub::RemoveJob, remove, &removed).ok()) << "it is silent now";
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

// By their bytes, as a prober that knows nothing of this project calls them.
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
