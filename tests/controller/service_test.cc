// SPDX-License-Identifier: Apache-2.0
//
// What terse-controller does with jobs, reports and commands, good and bad.
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "tests/controller/controller_server.h"

namespace terse::controller {
namespace {

using grpc::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

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

TEST_F(ControllerTest, AnOlderOrderThatComesThroughAfterAllIsInTheHistoryAsItself) {
  Start();
  const std::string id = Register();
  const std::vector<std::string> older = SettingsOf(Report(ReportOf(id, 10)).order());
  ASSERT_TRUE(Pin(id, "conv", "topk:0.02").ok());
  ASSERT_NE(SettingsOf(Report(ReportOf(id, 20)).order()), older) << "a second order of version 1";

  v1::ReportStepRequest taken = ReportOf(id, 30, 1, older);
  taken.set_since(30);
  taken.set_why("the first order");
  Report(taken);
  const std::vector<v1::Plan> plans = Plans(id);
  ASSERT_GE(plans.size(), 2u);
  EXPECT_TRUE(plans[1].taken());
  EXPECT_EQ(plans[1].outcome().why(), "the first order");
  EXPECT_EQ(plans[1].outcome().bytes(), 0) << "which is not known";
  EXPECT_EQ(plans[1].decided_us(), 0);
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

// By their bytes, as a prober that knows nothing of this project calls them.

}  // namespace
}  // namespace terse::controller
