// SPDX-License-Identifier: Apache-2.0
#include "runtime/workers/worker_pool.h"

#include <chrono>
#include <system_error>

namespace terse {
namespace {

constexpr std::chrono::microseconds kLook(20);
constexpr std::chrono::seconds kPatience(1);  // of one wait; whoever waits looks again

// Looks for so long whether `done` holds.
template <typename Done>
void LookFor(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + kLook;
  while (!done() && std::chrono::steady_clock::now() < end) {
    for (int i = 0; i < 16 && !done(); ++i) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }
}

}  // namespace

void WorkerPool::Job::Work() {
  for (size_t i = next.fetch_add(1); i < tasks; i = next.fetch_add(1)) task(i);
}

WorkerPool::WorkerPool(size_t count) {
  threads_.reserve(count);
  for (size_t i = 1; i < count; ++i) {
    try {
      threads_.emplace_back([this] { Serve(); });
    } catch (const std::system_error&) {
      break;
    }
  }
}

WorkerPool::~WorkerPool() {
  {
    const transport::MutexLock lock(mutex_);
    ends_ = true;
  }
  changed_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::Run(size_t tasks, absl::FunctionRef<void(size_t)> task) {
  Job job{.task = task, .tasks = tasks};
  {
    const transport::MutexLock lock(mutex_);
    job_ = &job;
    ++jobs_;
  }
  changed_.NotifyAll();
  job.Work();
  // Whoever wakes up later finds nothing to join.
  {
    const transport::MutexLock lock(mutex_);
    job_ = nullptr;
  }
  LookFor([this] { return working_ == 0; });
  const transport::MutexLock lock(mutex_);
  while (working_ != 0) Wait();
}

void WorkerPool::Wait() { (void)changed_.WaitUntil(mutex_, std::chrono::steady_clock::now() + kPatience); }

void WorkerPool::Serve() {
  uint64_t seen = 0;
  for (;;) {
    LookFor([&] { return jobs_ != seen; });
    Job* job = nullptr;
    {
      const transport::MutexLock lock(mutex_);
      while (!ends_ && (job_ == nullptr || jobs_ == seen)) Wait();
      if (ends_) return;
      seen = jobs_;
      job = job_;
      ++working_;
    }
    job->Work();
    {
      const transport::MutexLock lock(mutex_);
      --working_;
    }
    changed_.NotifyAll();
  }
}

}  // namespace terse
