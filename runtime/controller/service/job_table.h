// SPDX-License-Identifier: Apache-2.0
//
// The jobs of a terse-controller, and who waits for news of them. Thread-safe.
#ifndef TERSE_RUNTIME_CONTROLLER_SERVICE_JOB_TABLE_H_
#define TERSE_RUNTIME_CONTROLLER_SERVICE_JOB_TABLE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/controller/service/job.h"
#include "runtime/controller/service/store.h"
#include "transport/inproc/mutex.h"

namespace terse::controller {

class JobTable {
 public:
  using Clock = std::function<int64_t()>;  // microseconds since 1970

  // With the jobs of the store, which outlives it.
  static absl::StatusOr<std::unique_ptr<JobTable>> Load(Store* store, size_t most_jobs, Clock clock);

  // The job of this instance, or a new one. RESOURCE_EXHAUSTED: there are too many, and none that is over.
  // Of those that are over, the one that reported longest ago goes when another comes.
  absl::StatusOr<std::shared_ptr<Job>> Register(const v1::RegisterJobRequest& registration);
  absl::StatusOr<std::shared_ptr<Job>> Find(const std::string& id) const;
  std::vector<std::shared_ptr<Job>> All() const;
  // FAILED_PRECONDITION: the job runs.
  absl::Status Remove(const std::string& id);

  // Says that a job has changed.
  void Changed();
  // Waits until something has changed since `seen`, or for the time; gives what to wait with next.
  uint64_t AwaitChange(uint64_t seen, std::chrono::milliseconds most);

  int64_t Now() const { return clock_(); }

 private:
  JobTable(Store* store, size_t most_jobs, Clock clock)
      : store_(*store), most_jobs_(most_jobs), clock_(std::move(clock)) {}
  absl::Status MakeRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Store& store_;
  const size_t most_jobs_;
  const Clock clock_;
  mutable transport::Mutex mutex_;
  std::map<std::string, std::shared_ptr<Job>> by_id_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<Job>> by_instance_ ABSL_GUARDED_BY(mutex_);
  mutable transport::Mutex news_mutex_;
  transport::CondVar news_came_;
  uint64_t news_ ABSL_GUARDED_BY(news_mutex_) = 1;
};

}  // namespace terse::controller

#endif  // TERSE_RUNTIME_CONTROLLER_SERVICE_JOB_TABLE_H_
