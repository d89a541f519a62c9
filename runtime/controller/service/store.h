// SPDX-License-Identifier: Apache-2.0
//
// What terse-controller keeps between runs: jobs with their commands, the history of their plans, and the
// audit log, in one SQLite file. A call that has returned OK has been written: killing the process loses
// nothing of it (write-ahead log; a power failure may take the last moments).
//
// Thread-safe. Messages are kept as they are sent (controller.proto).
#ifndef TERSE_RUNTIME_CONTROLLER_SERVICE_STORE_H_
#define TERSE_RUNTIME_CONTROLLER_SERVICE_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/terse/v1/controller.pb.h"
#include "transport/inproc/mutex.h"

struct sqlite3;

namespace terse::controller {

struct StoredJob {
  std::string id;
  v1::RegisterJobRequest registration;
  v1::Commands commands;
  int64_t registered_us = 0;
  int64_t reported_us = 0;
  bool finished = false;
};

class Store {
 public:
  // Opens or makes the file; ":memory:" for none. FAILED_PRECONDITION: another controller has it open, or it
  // is of another version, or no database.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& path);
  ~Store();

  // All jobs, in the order of their registration.
  absl::StatusOr<std::vector<StoredJob>> LoadJobs();
  // The number of jobs that were ever registered; ids are made of it.
  absl::StatusOr<int64_t> NextNumber();
  absl::Status SaveJob(const StoredJob& job);
  absl::Status SaveCommands(const std::string& job, const v1::Commands& commands);
  absl::Status SaveSeen(const std::string& job, int64_t reported_us, bool finished);
  absl::Status RemoveJob(const std::string& job);

  // Rows: all of the plan. A plan of the same version is replaced.
  absl::Status SavePlan(const v1::Plan& plan);
  absl::StatusOr<std::vector<v1::Plan>> LoadPlans(const std::string& job, uint32_t first, uint32_t most);
  // NOT_FOUND.
  absl::StatusOr<v1::Plan> LoadPlan(const std::string& job, uint32_t version);

  absl::Status AddAudit(const v1::AuditEntry& entry);
  absl::StatusOr<std::vector<v1::AuditEntry>> LoadAudit(const std::string& job, uint32_t most);

 private:
  class Statement;

  explicit Store(sqlite3* database) : database_(database) {}
  absl::Status Run(const char* sql) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Prepare() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  transport::Mutex mutex_;
  sqlite3* const database_ ABSL_PT_GUARDED_BY(mutex_);
};

}  // namespace terse::controller

#endif  // TERSE_RUNTIME_CONTROLLER_SERVICE_STORE_H_
