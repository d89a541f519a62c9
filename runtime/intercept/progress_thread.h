// SPDX-License-Identifier: Apache-2.0
//
// A thread that runs tasks one after the other, in the order in which they were given. Non-blocking calls
// that are compressed go on in it while the program computes. Knows nothing of MPI.
#ifndef TERSE_RUNTIME_INTERCEPT_PROGRESS_THREAD_H_
#define TERSE_RUNTIME_INTERCEPT_PROGRESS_THREAD_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace terse::intercept {

// Given tasks by one thread at a time. Signals are left to the program's threads.
class ProgressThread {
 public:
  using Task = std::function<void()>;

  ProgressThread();
  // Runs what was given, then joins. Tasks wait for other ranks as long as MPI would.
  ~ProgressThread();
  ProgressThread(const ProgressThread&) = delete;
  ProgressThread& operator=(const ProgressThread&) = delete;

  void Post(Task task);
  // Returns once the task has run, and all that were given before it.
  void Run(const Task& task);
  // Runs the task here and now, if nothing else is to be done; false otherwise.
  bool RunIfIdle(const Task& task);

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;  // under mutex_, like what follows
  uint64_t given_ = 0;
  uint64_t done_ = 0;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_PROGRESS_THREAD_H_
