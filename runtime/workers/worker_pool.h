// SPDX-License-Identifier: Apache-2.0
//
// The threads behind compressors/workers.h: a fixed number of them, started with the pool and joined with it.
// They look for work for some 20 us before they sleep, since waking one takes longer than that; they touch
// no transport and no MPI. One thread at a time calls Run.
#ifndef TERSE_RUNTIME_WORKERS_WORKER_POOL_H_
#define TERSE_RUNTIME_WORKERS_WORKER_POOL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "compressors/workers.h"
#include "transport/inproc/mutex.h"

namespace terse {

class WorkerPool final : public Workers {
 public:
  // count >= 1: the caller's thread and count - 1 more. Fewer where the system gives no more threads.
  explicit WorkerPool(size_t count);
  ~WorkerPool() override;
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  size_t count() const override { return threads_.size() + 1; }
  void Run(size_t tasks, absl::FunctionRef<void(size_t)> task) override;

 private:
  // What one Run asks for; on the caller's stack while it lasts.
  struct Job {
    absl::FunctionRef<void(size_t)> task;
    size_t tasks = 0;
    std::atomic<size_t> next = 0;

    void Work();
  };

  void Serve();
  // Until there is something to look at, or a while has passed.
  void Wait() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  transport::Mutex mutex_;
  transport::CondVar changed_;
  Job* job_ ABSL_GUARDED_BY(mutex_) = nullptr;  // null: nothing to join
  bool ends_ ABSL_GUARDED_BY(mutex_) = false;
  // Changed under the lock, and looked at without it before anyone waits for the lock.
  std::atomic<uint64_t> jobs_ = 0;   // that were begun, ever
  std::atomic<size_t> working_ = 0;  // threads that are in the job
  std::vector<std::thread> threads_;
};

}  // namespace terse

#endif  // TERSE_RUNTIME_WORKERS_WORKER_POOL_H_
