// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string_view>

namespace terse::cli {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr size_t kMaxAnswer = size_t{4} << 20;
constexpr int kCannotRun = 127;

// Forks; the child does `work` with the given descriptor to write to, and ends with what it returns.
template <typename Work>
Answer Fork(const Work& work, int seconds) {
  Answer answer;
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return {"", kCannotRun, false};
  const pid_t child = fork();
  if (child == 0) {
    // A group of its own, so that what it starts ends with it.
    setpgid(0, 0);
    _exit(work(ends[1]));
  }
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    return {"", kCannotRun, false};
  }
  const Clock::time_point end = Clock::now() + std::chrono::seconds(seconds);
  std::array<char, 4096> buffer;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    pollfd waiting{ends[0], POLLIN, 0};
    const int ready = left <= 0 ? 0 : poll(&waiting, 1, static_cast<int>(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      answer.timed_out = true;
      break;
    }
    const ssize_t n = read(ends[0], buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    if (answer.text.size() < kMaxAnswer) answer.text.append(buffer.data(), static_cast<size_t>(n));
  }
  close(ends[0]);
  // It has closed its output or its time is over. One that closed and lives on gets what is left.
  int status = 0;
  for (;;) {
    if (answer.timed_out) {
      kill(-child, SIGKILL);
      kill(child, SIGKILL);  // where it has not come to make its group
    }
    const pid_t ended = waitpid(child, &status, answer.timed_out ? 0 : WNOHANG);
    if (ended == child || (ended < 0 && errno != EINTR)) break;
    if (ended != 0) continue;
    if (Clock::now() >= end) answer.timed_out = true;
    if (!answer.timed_out) usleep(1000);
  }
  answer.code = ExitCodeOf(status);
  return answer;
}

}  // namespace

int ExitCodeOf(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

Answer Ask(const Words& command, const JobVariables& variables, int seconds) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  return Fork(
      [&](int output) {
        const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (nothing >= 0) dup2(nothing, STDIN_FILENO);
        dup2(output, STDOUT_FILENO);
        dup2(output, STDERR_FILENO);
        for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
        execvp(arguments[0], arguments.data());
        return kCannotRun;
      },
      seconds);
}

Answer AskChild(const std::function<std::string()>& function, int seconds) {
  return Fork(
      [&](int output) {
        // What libraries say by themselves is none of the answer.
        const int nothing = open("/dev/null", O_WRONLY | O_CLOEXEC);
        if (nothing >= 0) {
          dup2(nothing, STDOUT_FILENO);
          dup2(nothing, STDERR_FILENO);
        }
        const std::string text = function();
        for (size_t done = 0; done < text.size();) {
          const ssize_t n = write(output, text.data() + done, text.size() - done);
          if (n <= 0) return 1;
          done += static_cast<size_t>(n);
        }
        return 0;
      },
      seconds);
}

std::string FindProgram(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  std::string_view path = std::getenv("PATH") != nullptr ? std::getenv("PATH") : "";
  while (!path.empty()) {
    const size_t end = std::min(path.find(':'), path.size());
    const fs::path file = fs::path(path.substr(0, end)) / name;
    std::error_code error;
    if (access(file.c_str(), X_OK) == 0 && !fs::is_directory(file, error)) return file;
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return name;
}

}  // namespace terse::cli
