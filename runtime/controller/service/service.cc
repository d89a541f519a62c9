// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/service/service.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace terse::controller {
namespace {

constexpr uint32_t kMostPlans = 1000;
constexpr uint32_t kMostAudit = 10000;
// Each holds a thread.
constexpr int kMostWatchers = 64;
constexpr std::chrono::milliseconds kLook{200};
// So that states that come of time alone (a job is silent) are shown.
constexpr int64_t kLookAgainUs = 2'000'000;

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const absl::string_view message = status.message();
  return {static_cast<grpc::StatusCode>(status.code()), std::string(message)};
}

// The rows of `plan` that are not those of the one before it.
void KeepChanges(const v1::Plan* before, v1::Plan* plan) {
  if (before == nullptr) return;
  std::map<std::string, std::string> settings;
  for (const v1::PlanRow& row : before->rows()) settings[row.tensor()] = row.setting();
  google::protobuf::RepeatedPtrField<v1::PlanRow> changed;
  for (v1::PlanRow& row : *plan->mutable_rows()) {
    const auto was = settings.find(row.tensor());
    if (was == settings.end() || was->second != row.setting()) *changed.Add() = std::move(row);
  }
  plan->mutable_rows()->Swap(&changed);
}

bool Goes(Role held, Role asked) {
  if (asked == Role::kRead) return held == Role::kRead || held == Role::kOperate;
  return held == asked;
}

}  // namespace

void Service::Stop() {
  stopped_ = true;
  jobs_.Changed();
}

absl::StatusOr<Holder> Service::Admit(grpc::ServerContext* context, Role role, const char* what) {
  if (!tokens_.has_value()) return Holder{.name = "anybody", .role = role, .token = {}};
  constexpr std::string_view kBearer = "Bearer ";
  std::string_view token;
  const auto found = context->client_metadata().find("authorization");
  if (found != context->client_metadata().end()) {
    token = {found->second.data(), found->second.size()};
    token = token.substr(0, kBearer.size()) == kBearer ? token.substr(kBearer.size()) : std::string_view();
  }
  const Holder* const holder = token.empty() ? nullptr : tokens_->Find(token);
  absl::Status status;
  if (holder == nullptr) {
    status = absl::UnauthenticatedError(token.empty() ? "a bearer token is needed" : "the token is nobody's");
  } else if (!Goes(holder->role, role)) {
    status = absl::PermissionDeniedError(absl::StrCat(std::string(Name(holder->role)),
                                                      " tokens do not go so far; this needs the role ",
                                                      std::string(Name(role))));
  }
  if (status.ok()) return *holder;
  Audit(context, holder == nullptr ? Holder{.name = "nobody", .role = Role::kRead, .token = {}} : *holder, "",
        what, status);
  return status;
}

void Service::Audit(grpc::ServerContext* context, const Holder& who, const std::string& job,
                    const std::string& what, const absl::Status& outcome) {
  v1::AuditEntry entry;
  entry.set_at_us(jobs_.Now());
  entry.set_who(absl::StrCat(who.name, " (", std::string(Name(who.role)), ")"));
  entry.set_peer(context->peer());
  entry.set_job_id(job);
  entry.set_what(what);
  entry.set_outcome(outcome.ok() ? "ok" : outcome.ToString());
  // A log that cannot be written does not undo what was done; the store's own calls report its state.
  (void)store_.AddAudit(entry);
}

grpc::Status Service::RegisterJob(grpc::ServerContext* context, const v1::RegisterJobRequest* request,
                                  v1::RegisterJobResponse* response) {
  const absl::StatusOr<Holder> who = Admit(context, Role::kJob, "RegisterJob");
  if (!who.ok()) return ToGrpc(who.status());
  const absl::StatusOr<std::shared_ptr<Job>> job = jobs_.Register(*request);
  Audit(context, *who, job.ok() ? (*job)->id() : "",
        absl::StrCat("RegisterJob ", request->name().substr(0, 255)), job.status());
  if (!job.ok()) return ToGrpc(job.status());
  response->set_job_id((*job)->id());
  return grpc::Status::OK;
}

grpc::Status Service::ReportStep(grpc::ServerContext* context, const v1::ReportStepRequest* request,
                                 v1::ReportStepResponse* response) {
  const absl::StatusOr<Holder> who = Admit(context, Role::kJob, "ReportStep");
  if (!who.ok()) return ToGrpc(who.status());
  const absl::StatusOr<std::shared_ptr<Job>> job = jobs_.Find(request->job_id());
  if (!job.ok()) return ToGrpc(job.status());
  absl::StatusOr<v1::ReportStepResponse> answer = (*job)->Report(*request, jobs_.Now());
  if (!answer.ok()) return ToGrpc(answer.status());
  *response = *std::move(answer);
  jobs_.Changed();
  return grpc::Status::OK;
}

grpc::Status Service::FinishJob(grpc::ServerContext* context, const v1::FinishJobRequest* request,
                                v1::FinishJobResponse*) {
  const absl::StatusOr<Holder> who = Admit(context, Role::kJob, "FinishJob");
  if (!who.ok()) return ToGrpc(who.status());
  const absl::StatusOr<std::shared_ptr<Job>> job = jobs_.Find(request->job_id());
  if (!job.ok()) return ToGrpc(job.status());
  const absl::Status status = (*job)->Finish(request->instance(), jobs_.Now());
  Audit(context, *who, request->job_id(), "FinishJob", status);
  jobs_.Changed();
  return ToGrpc(status);
}

grpc::Status Service::ListJobs(grpc::ServerContext* context, const v1::ListJobsRequest*,
                               v1::ListJobsResponse* response) {
  const absl::StatusOr<Holder> who = Admit(context, Role::kRead, "ListJobs");
  if (!who.ok()) return ToGrpc(who.status());
  for (const std::shared_ptr<Job>& job : jobs_.All()) *response->add_jobs() = job->State(jobs_.Now(), false);
  return grpc::Status::OK;
}

grpc::Status Service::GetJob(grpc::ServerContext* context, const v1::GetJobRequest* request,
                             v1::Job* response) {
  const absl::StatusOr<Holder> who = Admit(context, Role::kRead, "GetJob");
  if (!who.ok()) return ToGrpc(who.status());
  const absl::StatusOr<std::shared_ptr<Job>> job = jobs_.Find(request->job_id());
  if (!job.ok()) return ToGrpc(job.status());
  *response = (*job)->State(jobs_.Now(), true);
  return grpc::Status::OK;
}

grpc::Status Service::ListTensors(grpc::ServerContext* context, const v1::ListTensorsRequest* request,
                                  v1::ListTensorsResponse* response) {
  const absl::StatusOr<Holder> who = Admit(context, Role::kRead, "ListTensors");
  if (!who.ok()) return ToGrpc(who.status());
  const absl::StatusOr<std::shared_ptr<Job>> job = jobs_.Find(request->job_id());
  if (!job.ok()) return ToGrpc(job.status());
  *response = (*job)->Tensors();
  return grpc::Status::OK;
}

grpc::Status Service::GetPlan(grpc::ServerContext* context, const v1::GetPlanRequest* request,
                              v1::Plan* response) {
  const absl::StatusOr<Holder> who = Admit(context, Role::kRead, "GetPlan");
  if (!who.ok()) return ToGrpc(who.status());
  const absl::StatusOr<std::shared_ptr<Job>> job = jobs_.Find(request->job_id());
  if (!job.ok()) return ToGrpc(job.status());
  const uint32_t version =
      request->version() == 0 ? (*job)->State(jobs_.Now(), false).plan_version() : request->version();
  absl::StatusOr<v1::Plan> plan = store_.LoadPlan(request->job_id(), version);
  if (!plan.ok()) return ToGrpc(plan.status());
  *response = *std::move(plan);
  return grpc::Status::OK;
}

grpc::Status Service::ListPlans(grpc::ServerContext* context, const v1::ListPlansRequest* request,
                                v1::ListPlansResponse* response) {
  const absl::StatusOr<Holder> who = Admit(context, Role::kRead, "ListPlans");
  if (!who.ok()) return ToGrpc(who.status());
  if (const auto job = jobs_.Find(request->job_id()); !job.ok()) return ToGrpc(job.status());
  const uint32_t most = request->most() == 0 ? kMostPlans : std::min(request->most(), kMostPlans);
  absl::StatusOr<std::vector<v1::Plan>> plans = store_.LoadPlans(request->job_id(), request->first(), most);
  if (!plans.ok()) return ToGrpc(plans.status());
  // The first is held against the one before it, if it is there.
  std::vector<v1::Plan> all;
  if (!plans->empty() && plans->front().version() > 0) {
    absl::StatusOr<v1::Plan> before = store_.LoadPlan(request->job_id(), plans->front().version() - 1);
    if (before.ok()) all.push_back(*std::move(before));
  }
  const size_t first = all.size();
  for (v1::Plan& plan : *plans) all.push_back(std::move(plan));
  for (size_t i = first; i < all.size(); ++i) {
    v1::Plan& plan = *response->add_plans();
    plan = all[i];
    KeepChanges(i == 0 ? nullptr : &all[i - 1], &plan);
  }
  return grpc::Status::OK;
}

grpc::Status Service::WatchJobs(grpc::ServerContext* context, const v1::WatchJobsRequest* request,
                                grpc::ServerWriter<v1::WatchJobsResponse>* writer) {
  const absl::StatusOr<Holder> who = Admit(context, Role::kRead, "WatchJobs");
  if (!who.ok()) return ToGrpc(who.status());
  struct Counted {
    explicit Counted(std::atomic<int>* count) : count_(*count), number(++count_) {}
    ~Counted() { --count_; }
    std::atomic<int>& count_;
    const int number;
  } const counted(&watchers_);
  if (counted.number > kMostWatchers)
    return {grpc::StatusCode::RESOURCE_EXHAUSTED,
            absl::StrCat("more than ", kMostWatchers, " streams; poll ListJobs")};

  std::map<std::string, std::pair<uint64_t, v1::JobState>> shown;
  bool first = true;
  uint64_t seen = 0;
  int64_t looked_us = 0;
  while (!stopped_ && !context->IsCancelled()) {
    const uint64_t news = jobs_.AwaitChange(seen, kLook);
    const int64_t now_us = jobs_.Now();
    if (news == seen && now_us - looked_us < kLookAgainUs) continue;
    seen = news;
    looked_us = now_us;
    std::vector<std::shared_ptr<Job>> jobs;
    if (request->job_id().empty()) {
      jobs = jobs_.All();
    } else {
      absl::StatusOr<std::shared_ptr<Job>> job = jobs_.Find(request->job_id());
      if (!job.ok()) return ToGrpc(job.status());
      jobs.push_back(*std::move(job));
    }
    v1::WatchJobsResponse response;
    for (const std::shared_ptr<Job>& job : jobs) {
      // Before its state: what changes in between is shown again.
      const uint64_t revision = job->revision();
      v1::Job state = job->State(now_us, false);
      auto& [last, was] = shown[job->id()];
      if (last == revision && was == state.state()) continue;
      last = revision;
      was = state.state();
      *response.add_jobs() = std::move(state);
    }
    if (response.jobs_size() == 0 && !first) continue;
    first = false;
    if (!writer->Write(response)) break;
  }
  if (stopped_) return {grpc::StatusCode::UNAVAILABLE, "the controller stops"};
  return grpc::Status::OK;
}

grpc::Status Service::ListAudit(grpc::ServerContext* context, const v1::ListAuditRequest* request,
                                v1::ListAuditResponse* response) {
  const absl::StatusOr<Holder> who = Admit(context, Role::kOperate, "ListAudit");
  if (!who.ok()) return ToGrpc(who.status());
  const uint32_t most = request->most() == 0 ? 100 : std::min(request->most(), kMostAudit);
  absl::StatusOr<std::vector<v1::AuditEntry>> entries = store_.LoadAudit(request->job_id(), most);
  if (!entries.ok()) return ToGrpc(entries.status());
  for (v1::AuditEntry& entry : *entries) *response->add_entries() = std::move(entry);
  return grpc::Status::OK;
}

grpc::Status Service::Command(grpc::ServerContext* context, const std::string& job, const std::string& what,
                              const policy::Event& event, v1::CommandResponse* response) {
  const absl::StatusOr<Holder> who = Admit(context, Role::kOperate, what.c_str());
  if (!who.ok()) return ToGrpc(who.status());
  const absl::StatusOr<std::shared_ptr<Job>> found = jobs_.Find(job);
  absl::StatusOr<v1::Commands> commands =
      found.ok() ? (*found)->Command(event) : absl::StatusOr<v1::Commands>(found.status());
  Audit(context, *who, job, what, commands.status());
  if (!commands.ok()) return ToGrpc(commands.status());
  *response->mutable_commands() = *std::move(commands);
  jobs_.Changed();
  return grpc::Status::OK;
}

grpc::Status Service::PinTensor(grpc::ServerContext* context, const v1::PinTensorRequest* request,
                                v1::CommandResponse* response) {
  return Command(context, request->job_id(),
                 absl::StrCat("PinTensor ", request->tensor(), " ", request->setting()),
                 policy::PinTensor{request->tensor(), request->setting()}, response);
}

grpc::Status Service::UnpinTensor(grpc::ServerContext* context, const v1::UnpinTensorRequest* request,
                                  v1::CommandResponse* response) {
  return Command(context, request->job_id(), absl::StrCat("UnpinTensor ", request->tensor()),
                 policy::PinTensor{request->tensor(), std::nullopt}, response);
}

grpc::Status Service::SetBudget(grpc::ServerContext* context, const v1::SetBudgetRequest* request,
                                v1::CommandResponse* response) {
  return Command(context, request->job_id(), absl::StrCat("SetBudget ", request->alpha()),
                 policy::SetAlpha{request->alpha()}, response);
}

grpc::Status Service::PauseAdaptation(grpc::ServerContext* context, const v1::PauseAdaptationRequest* request,
                                      v1::CommandResponse* response) {
  return Command(context, request->job_id(), absl::StrCat("PauseAdaptation ", request->paused()),
                 policy::PauseAdaptation{request->paused()}, response);
}

grpc::Status Service::ForceDense(grpc::ServerContext* context, const v1::ForceDenseRequest* request,
                                 v1::CommandResponse* response) {
  return Command(context, request->job_id(), absl::StrCat("ForceDense ", request->on()),
                 policy::ForceDense{request->on()}, response);
}

grpc::Status Service::RemoveJob(grpc::ServerContext* context, const v1::RemoveJobRequest* request,
                                v1::RemoveJobResponse*) {
  const absl::StatusOr<Holder> who = Admit(context, Role::kOperate, "RemoveJob");
  if (!who.ok()) return ToGrpc(who.status());
  const absl::Status status = jobs_.Remove(request->job_id());
  Audit(context, *who, request->job_id(), "RemoveJob", status);
  return ToGrpc(status);
}

}  // namespace terse::controller
