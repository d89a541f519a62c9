// SPDX-License-Identifier: Apache-2.0
//
// One job of a terse-controller: what it said last, its controller (policy/job_controller.h), and its plans
// on their way into the store. Everything that a job or a person sends is checked here before it is taken up.
//
// Thread-safe; calls of one job wait for each other. Errors as in controller.proto.
#ifndef TERSE_RUNTIME_CONTROLLER_SERVICE_JOB_H_
#define TERSE_RUNTIME_CONTROLLER_SERVICE_JOB_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/terse/v1/controller.pb.h"
#include "runtime/controller/policy/job_controller.h"
#include "runtime/controller/service/store.h"
#include "transport/inproc/mutex.h"

namespace terse::controller {

class Job {
 public:
  // The registration is one that CheckRegistration found good. `store` outlives the job.
  Job(StoredJob stored, Store* store);

  // INVALID_ARGUMENT names the field.
  static absl::Status CheckRegistration(const v1::RegisterJobRequest& registration);

  const std::string& id() const { return id_; }
  const std::string& instance() const { return instance_; }

  // The job again, which may have grown since. ALREADY_EXISTS: it is another one now.
  absl::Status RegisterAgain(const v1::RegisterJobRequest& registration, int64_t now_us);
  absl::StatusOr<v1::ReportStepResponse> Report(const v1::ReportStepRequest& report, int64_t now_us);
  absl::Status Finish(const std::string& instance, int64_t now_us);

  // A command: in the store, or not taken up.
  absl::StatusOr<v1::Commands> Command(const policy::Event& command);

  v1::Job State(int64_t now_us, bool with_config) const;
  v1::ListTensorsResponse Tensors() const;
  // How many times something has changed that State shows.
  uint64_t revision() const;
  bool Over(int64_t now_us) const;  // finished, or silent

 private:
  void Rebuild() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  v1::Commands CommandsNow() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  v1::JobState StateNow(int64_t now_us) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckReport(const v1::ReportStepRequest& report) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The rows that a report says are in force. INVALID_ARGUMENT: they are not possible.
  absl::StatusOr<policy::Measured> MeasuredOf(const v1::ReportStepRequest& report) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status SaveTaken(const v1::ReportStepRequest& report) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether its answer has an order, and the plan of it stored.
  absl::Status SaveOffered(const policy::Action& action, int64_t now_us, v1::Order* order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string id_;
  const std::string instance_;
  Store& store_;

  mutable transport::Mutex mutex_;
  StoredJob stored_ ABSL_GUARDED_BY(mutex_);
  wire::Config config_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<policy::JobController> controller_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::ReportStepRequest> last_ ABSL_GUARDED_BY(mutex_);
  v1::ReportStepResponse answer_ ABSL_GUARDED_BY(mutex_);  // to `last_`
  std::string decision_ ABSL_GUARDED_BY(mutex_);
  uint64_t revision_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace terse::controller

#endif  // TERSE_RUNTIME_CONTROLLER_SERVICE_JOB_H_
