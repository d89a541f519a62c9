// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/progress_thread.h"

#include <pthread.h>
#include <signal.h>

#include <utility>

namespace terse::intercept {

ProgressThread::ProgressThread() {
  // The new thread inherits the mask: no signal of the program's is handled in it.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { Loop(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

ProgressThread::~ProgressThread() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void ProgressThread::Post(Task task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    tasks_.push_back(std::move(task));
    ++given_;
  }
  changed_.notify_all();
}

void ProgressThread::Run(const Task& task) {
  Post(task);
  std::unique_lock<std::mutex> lock(mutex_);
  const uint64_t mine = given_;
  changed_.wait(lock, [&] { return done_ >= mine; });
}

bool ProgressThread::RunIfIdle(const Task& task) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (done_ != given_) return false;
  task();
  return true;
}

void ProgressThread::Loop() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    const Task task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
    ++done_;
    changed_.notify_all();
  }
}

}  // namespace terse::intercept
