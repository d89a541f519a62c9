// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/console/top.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "runtime/cli/exit_code.h"

namespace terse::cli {
namespace {

const Lines& HelpLines() {
  static const auto& lines =
      *new Lines{"  up, down   select                  enter    look into the job",
                 "  escape     back to all jobs        s        sort tensors by another column",
                 "  p          pin the tensor          u        unpin it",
                 "  space      pause, or go on         d        dense for all, or as planned",
                 "  b          set the budget          q        quit"};
  return lines;
}

bool IsNumber(const std::string& text, double* number) {
  char* end = nullptr;
  *number = std::strtod(text.c_str(), &end);
  return !text.empty() && *end == '\0';
}

std::string Fitted(const std::string& line, size_t columns) {
  size_t used = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    if ((static_cast<unsigned char>(line[i]) & 0xc0) != 0x80 && used++ == columns) return line.substr(0, i);
  }
  return line;
}

// A terminal that gives keys as they come, until this goes.
class Terminal {
 public:
  Terminal() {
    tcgetattr(STDIN_FILENO, &before_);
    termios raw = before_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    std::fputs("\x1b[?1049h\x1b[?25l", stdout);  // another screen, no cursor
  }
  ~Terminal() {
    std::fputs("\x1b[?25h\x1b[?1049l", stdout);
    std::fflush(stdout);
    tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // Waits for keys; none: the time has passed. Standard input that has ended is 'q'.
  static std::vector<std::string> Keys(int milliseconds) {
    pollfd input = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (poll(&input, 1, milliseconds) <= 0) return {};
    char bytes[64];
    const ssize_t n = read(STDIN_FILENO, bytes, sizeof bytes);
    if (n == 0) return {"q"};
    std::vector<std::string> keys;
    for (ssize_t i = 0; i < n; ++i) {
      const std::string_view rest(bytes + i, static_cast<size_t>(n - i));
      if (rest.substr(0, 3) == "\x1b[A" || rest.substr(0, 3) == "\x1b[B") {
        keys.emplace_back(rest[2] == 'A' ? "up" : "down");
        i += 2;
      } else if (rest[0] == '\x1b') {
        keys.emplace_back("escape");
        if (rest.size() > 1) break;  // a key that is not known
      } else if (rest[0] == '\n' || rest[0] == '\r') {
        keys.emplace_back("enter");
      } else if (rest[0] == '\x7f' || rest[0] == '\b') {
        keys.emplace_back("backspace");
      } else {
        keys.emplace_back(1, rest[0]);
      }
    }
    return keys;
  }

  static void Draw(const Lines& lines) {
    std::string out = "\x1b[H";
    for (const std::string& line : lines) out += line + "\x1b[K\r\n";
    out += "\x1b[J";
    std::fwrite(out.data(), 1, out.size(), stdout);
    std::fflush(stdout);
  }

  static std::pair<size_t, size_t> Size() {
    winsize size = {};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0 || size.ws_col == 0) return {24, 80};
    return {size.ws_row, size.ws_col};
  }

 private:
  termios before_ = {};
};

TopData Look(Connection* connection, const std::string& job) {
  TopData data;
  if (job.empty()) {
    data.jobs = Sorted(connection->Jobs());
    return data;
  }
  v1::GetJobRequest get;
  get.set_job_id(job);
  data.job = connection->Call(&v1::Controller::Stub::GetJob, get);
  v1::ListTensorsRequest list;
  list.set_job_id(job);
  const v1::ListTensorsResponse tensors = connection->Call(&v1::Controller::Stub::ListTensors, list);
  data.tensors.assign(tensors.tensors().begin(), tensors.tensors().end());
  return data;
}

void Send(Connection* connection, const TopCommand& command) {
  using Stub = v1::Controller::Stub;
  switch (command.kind) {
    case TopCommand::Kind::kPin: {
      v1::PinTensorRequest request;
      request.set_job_id(command.job);
      request.set_tensor(command.tensor);
      request.set_setting(command.text);
      connection->Call(&Stub::PinTensor, request);
      return;
    }
    case TopCommand::Kind::kUnpin: {
      v1::UnpinTensorRequest request;
      request.set_job_id(command.job);
      request.set_tensor(command.tensor);
      connection->Call(&Stub::UnpinTensor, request);
      return;
    }
    case TopCommand::Kind::kPause: {
      v1::PauseAdaptationRequest request;
      request.set_job_id(command.job);
      request.set_paused(command.on);
      connection->Call(&Stub::PauseAdaptation, request);
      return;
    }
    case TopCommand::Kind::kDense: {
      v1::ForceDenseRequest request;
      request.set_job_id(command.job);
      request.set_on(command.on);
      connection->Call(&Stub::ForceDense, request);
      return;
    }
    case TopCommand::Kind::kBudget: {
      v1::SetBudgetRequest request;
      request.set_job_id(command.job);
      request.set_alpha(command.number);
      connection->Call(&Stub::SetBudget, request);
      return;
    }
  }
}

}  // namespace

std::vector<std::string> TopView::Selectable(const TopData& data) const {
  std::vector<std::string> names;
  if (job_.empty()) {
    for (const v1::Job& job : data.jobs) names.push_back(job.id());
  } else {
    for (const v1::Tensor& tensor : Sorted(data.tensors, order_)) names.push_back(tensor.name());
  }
  return names;
}

std::optional<TopCommand> TopView::KeyOfInput(std::string_view key) {
  if (key == "escape") {
    asking_.reset();
  } else if (key == "backspace") {
    if (!input_.empty()) input_.pop_back();
  } else if (key == "enter") {
    TopCommand command = *std::exchange(asking_, std::nullopt);
    command.text = input_;
    if (command.kind == TopCommand::Kind::kBudget && !IsNumber(input_, &command.number)) {
      said_ = "the budget is a number, such as 1.5";
      return std::nullopt;
    }
    return command;
  } else if (key.size() == 1 && static_cast<unsigned char>(key[0]) > ' ' && key[0] != '\x7f') {
    input_ += key;
  }
  return std::nullopt;
}

std::optional<TopCommand> TopView::Key(std::string_view key, const TopData& data) {
  if (asking_.has_value()) return KeyOfInput(key);
  said_.clear();
  const std::vector<std::string> names = Selectable(data);
  selected_ = std::min(selected_, names.empty() ? 0 : names.size() - 1);
  const auto job_command = [&](TopCommand::Kind kind) -> std::optional<TopCommand> {
    if (job_.empty() && names.empty()) return std::nullopt;
    TopCommand command{.kind = kind, .job = job_.empty() ? names[selected_] : job_, .tensor = {}, .text = {}};
    const v1::Commands& now = job_.empty() ? data.jobs[selected_].commands() : data.job->commands();
    command.on = kind == TopCommand::Kind::kPause ? !now.paused() : !now.force_dense();
    return command;
  };
  if (key == "q") {
    done_ = true;
  } else if (key == "?" || key == "h") {
    help_ = !help_;
  } else if (key == "up" || key == "k") {
    selected_ -= selected_ > 0 ? 1 : 0;
  } else if (key == "down" || key == "j") {
    selected_ += selected_ + 1 < names.size() ? 1 : 0;
  } else if (key == "enter" && job_.empty() && !names.empty()) {
    job_ = names[selected_];
    selected_ = 0;
  } else if (key == "escape") {
    job_.clear();
    selected_ = 0;
  } else if (key == "s") {
    const auto* const at = std::find(std::begin(kTensorOrders), std::end(kTensorOrders), order_);
    order_ = at + 1 == std::end(kTensorOrders) ? kTensorOrders[0] : *(at + 1);
  } else if (key == " ") {
    return job_command(TopCommand::Kind::kPause);
  } else if (key == "d") {
    return job_command(TopCommand::Kind::kDense);
  } else if (key == "b") {
    asking_ = job_command(TopCommand::Kind::kBudget);
    input_.clear();
  } else if ((key == "p" || key == "u") && !job_.empty() && !names.empty()) {
    TopCommand command{.kind = key == "p" ? TopCommand::Kind::kPin : TopCommand::Kind::kUnpin,
                       .job = job_,
                       .tensor = names[selected_],
                       .text = {}};
    if (key == "u") return command;
    asking_ = std::move(command);
    input_.clear();
  }
  return std::nullopt;
}

Lines TopView::Screen(const TopData& data, const std::string& address, size_t rows, size_t columns) const {
  Lines head;
  Lines table;
  if (job_.empty() || !data.job.has_value()) {
    const auto running = std::count_if(data.jobs.begin(), data.jobs.end(), [](const v1::Job& job) {
      return job.state() == v1::JOB_STATE_RUNNING;
    });
    head.push_back("terse-controller at " + address + ": " + std::to_string(data.jobs.size()) + " jobs, " +
                   std::to_string(running) + " running");
    table = JobTable(data.jobs);
  } else {
    head = JobHead(*data.job);
    head.push_back("tensors by " + std::string(Name(order_)) + ":");
    table = TensorTable(Sorted(data.tensors, order_));
  }
  Lines foot;
  if (help_) foot = HelpLines();
  if (asking_.has_value()) {
    foot.push_back(asking_->kind == TopCommand::Kind::kBudget
                       ? "budget of " + Printable(asking_->job) +
                             ", times that of the configured setting: " + input_ + "_"
                       : "pin " + Printable(asking_->tensor) +
                             " to (none, fp16, quantize:4, topk:0.01, powersgd:4): " + input_ + "_");
  } else {
    foot.push_back(said_.empty() ? "? help   q quit" : Printable(said_));
  }

  Lines lines = std::move(head);
  const size_t fixed = lines.size() + 1 + foot.size();  // with the table's head
  const size_t room = rows > fixed ? rows - fixed : 1;
  const size_t count = table.size() - 1;
  const size_t selected = std::min(selected_, count == 0 ? 0 : count - 1);
  const size_t from = selected < room ? 0 : selected - room + 1;
  lines.push_back("  " + table[0]);
  for (size_t i = from; i < std::min(count, from + room); ++i)
    lines.push_back((i == selected ? "> " : "  ") + table[i + 1]);
  for (std::string& line : foot) lines.push_back(std::move(line));
  if (lines.size() > rows) lines.resize(rows);
  for (std::string& line : lines) line = Fitted(line, columns);
  return lines;
}

void RunTop(Connection* connection, const TopOptions& options) {
  TopView view(options.job.empty() ? "" : connection->Resolve(options.job), options.order);
  TopData data = Look(connection, view.job());
  if (options.once || isatty(STDOUT_FILENO) == 0 || isatty(STDIN_FILENO) == 0) {
    Lines lines = view.job().empty() ? JobTable(data.jobs) : JobHead(*data.job);
    if (!view.job().empty()) {
      for (std::string& line : TensorTable(Sorted(data.tensors, options.order)))
        lines.push_back(std::move(line));
    }
    for (const std::string& line : lines) std::printf("%s\n", line.c_str());
    return;
  }
  const Terminal terminal;
  const auto between = std::chrono::duration<double>(options.seconds);
  auto next = std::chrono::steady_clock::now() + between;
  while (!view.done()) {
    const auto [rows, columns] = Terminal::Size();
    Terminal::Draw(view.Screen(data, connection->address(), rows - 1, columns));
    const auto left =
        std::chrono::duration<double, std::milli>(next - std::chrono::steady_clock::now()).count();
    const std::string before = view.job();
    bool commanded = false;
    for (const std::string& key : Terminal::Keys(std::max(0, static_cast<int>(left)))) {
      const std::optional<TopCommand> command = view.Key(key, data);
      if (view.job() != before) break;
      if (!command.has_value()) continue;
      commanded = true;
      try {
        Send(connection, *command);
        view.Say("done; the job takes it up with its next report");
      } catch (const CommandError& error) {
        view.Say(error.what());
      }
    }
    if (view.job() == before && !commanded && std::chrono::steady_clock::now() < next) continue;
    next = std::chrono::steady_clock::now() + between;
    try {
      data = Look(connection, view.job());
    } catch (const CommandError& error) {
      view.Say(error.what());
    }
  }
}

}  // namespace terse::cli
