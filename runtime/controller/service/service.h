// SPDX-License-Identifier: Apache-2.0
//
// The Controller of controller.proto: who calls and what for is checked here, what comes of it is the jobs'
// (job.h). Thread-safe; gRPC's threads call it.
#ifndef TERSE_RUNTIME_CONTROLLER_SERVICE_SERVICE_H_
#define TERSE_RUNTIME_CONTROLLER_SERVICE_SERVICE_H_

#include <atomic>
#include <functional>
#include <optional>
#include <string>

#include "proto/terse/v1/controller.grpc.pb.h"
#include "runtime/controller/service/job_table.h"
#include "runtime/controller/service/store.h"
#include "runtime/controller/service/tokens.h"

namespace terse::controller {

class Service final : public v1::Controller::Service {
 public:
  // All outlive it. Without tokens everybody may do everything.
  Service(JobTable* jobs, Store* store, const std::optional<Tokens>& tokens)
      : jobs_(*jobs), store_(*store), tokens_(tokens) {}

  // Ends the streams; no new one is taken.
  void Stop();

  grpc::Status RegisterJob(grpc::ServerContext* context, const v1::RegisterJobRequest* request,
                           v1::RegisterJobResponse* response) override;
  grpc::Status ReportStep(grpc::ServerContext* context, const v1::ReportStepRequest* request,
                          v1::ReportStepResponse* response) override;
  grpc::Status FinishJob(grpc::ServerContext* context, const v1::FinishJobRequest* request,
                         v1::FinishJobResponse* response) override;
  grpc::Status ListJobs(grpc::ServerContext* context, const v1::ListJobsRequest* request,
                        v1::ListJobsResponse* response) override;
  grpc::Status GetJob(grpc::ServerContext* context, const v1::GetJobRequest* request,
                      v1::Job* response) override;
  grpc::Status ListTensors(grpc::ServerContext* context, const v1::ListTensorsRequest* request,
                           v1::ListTensorsResponse* response) override;
  grpc::Status GetPlan(grpc::ServerContext* context, const v1::GetPlanRequest* request,
                       v1::Plan* response) override;
  grpc::Status ListPlans(grpc::ServerContext* context, const v1::ListPlansRequest* request,
                         v1::ListPlansResponse* response) override;
  grpc::Status WatchJobs(grpc::ServerContext* context, const v1::WatchJobsRequest* request,
                         grpc::ServerWriter<v1::WatchJobsResponse>* writer) override;
  grpc::Status ListAudit(grpc::ServerContext* context, const v1::ListAuditRequest* request,
                         v1::ListAuditResponse* response) override;
  grpc::Status PinTensor(grpc::ServerContext* context, const v1::PinTensorRequest* request,
                         v1::CommandResponse* response) override;
  grpc::Status UnpinTensor(grpc::ServerContext* context, const v1::UnpinTensorRequest* request,
                           v1::CommandResponse* response) override;
  grpc::Status SetBudget(grpc::ServerContext* context, const v1::SetBudgetRequest* request,
                         v1::CommandResponse* response) override;
  grpc::Status PauseAdaptation(grpc::ServerContext* context, const v1::PauseAdaptationRequest* request,
                               v1::CommandResponse* response) override;
  grpc::Status ForceDense(grpc::ServerContext* context, const v1::ForceDenseRequest* request,
                          v1::CommandResponse* response) override;
  grpc::Status RemoveJob(grpc::ServerContext* context, const v1::RemoveJobRequest* request,
                         v1::RemoveJobResponse* response) override;

 private:
  // Who calls, if that one may do what `role` may. Refusals go into the audit log.
  absl::StatusOr<Holder> Admit(grpc::ServerContext* context, Role role, const char* what);
  // A command by whoever is admitted; in the audit log, whatever comes of it.
  grpc::Status Command(grpc::ServerContext* context, const std::string& job, const std::string& what,
                       const policy::Event& event, v1::CommandResponse* response);
  void Audit(grpc::ServerContext* context, const Holder& who, const std::string& job, const std::string& what,
             const absl::Status& outcome);

  JobTable& jobs_;
  Store& store_;
  const std::optional<Tokens>& tokens_;
  std::atomic<bool> stopped_{false};
  std::atomic<int> watchers_{0};
};

}  // namespace terse::controller

#endif  // TERSE_RUNTIME_CONTROLLER_SERVICE_SERVICE_H_
