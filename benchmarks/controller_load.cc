// SPDX-License-Identifier: Apache-2.0
//
// controller_load: many simulated jobs that report to one terse-controller, which it starts itself. What does
// that take of a machine, and how long does a job wait for its plan? See --help.
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "proto/terse/v1/controller.grpc.pb.h"
#include "proto/wire/config.h"
#include "runtime/controller/policy/candidates.h"

namespace terse {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

struct Options {
  int jobs = 1000;
  int ranks = 64;
  int tensors = 50;
  double period_s = 1;
  double seconds = 30;
  int threads = 8;
  std::string controller;
  bool json = false;
};

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// terse-controller in a process of its own, with a store in a temporary folder.
class Controller {
 public:
  explicit Controller(const std::string& program) {
    char name[] = "/tmp/terse_load_XXXXXX";
    if (mkdtemp(name) == nullptr) throw std::runtime_error("no temporary folder");
    folder_ = name;
    address_ = "unix:" + (folder_ / "socket").string();
    const std::vector<std::string> words = {
        program, "--listen", address_, "--store", (folder_ / "store.db").string(), "--most-jobs", "100000"};
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    if (posix_spawn(&process_, program.c_str(), nullptr, nullptr, arguments.data(), environ) != 0)
      throw std::runtime_error("cannot start " + program);
  }
  ~Controller() {
    kill(process_, SIGTERM);
    waitpid(process_, nullptr, 0);
    std::filesystem::remove_all(folder_);
  }
  Controller(const Controller&) = delete;
  Controller& operator=(const Controller&) = delete;

  const std::string& address() const { return address_; }

  // Of user and system, so far.
  double CpuSeconds() const {
    std::ifstream file("/proc/" + std::to_string(process_) + "/stat");
    std::string text((std::istreambuf_iterator<char>(file)), {});
    std::istringstream fields(text.substr(text.rfind(')') + 2));
    std::string skipped;
    double user = 0;
    double system = 0;
    for (int i = 0; i < 11; ++i) fields >> skipped;
    fields >> user >> system;
    return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  double PeakBytes() const {
    std::ifstream file("/proc/" + std::to_string(process_) + "/status");
    for (std::string line; std::getline(file, line);) {
      if (line.rfind("VmHWM:", 0) == 0) return 1024 * std::stod(line.substr(6));
    }
    return 0;
  }
  double StoreBytes() const {
    double bytes = 0;
    for (const auto& file : std::filesystem::directory_iterator(folder_)) {
      if (file.is_regular_file()) bytes += static_cast<double>(file.file_size());
    }
    return bytes;
  }

 private:
  std::filesystem::path folder_;
  std::string address_;
  pid_t process_ = 0;
};

// A transformer's tensors: small vectors, projections, feed-forward layers and an embedding.
std::vector<policy::TensorInfo> TensorsOf(int count) {
  const std::vector<std::vector<int64_t>> shapes = {{512},       {512, 512},  {512, 1536},
                                                    {512, 2048}, {2048, 512}, {8192, 512}};
  std::vector<policy::TensorInfo> tensors;
  for (int t = 0; t < count; ++t) {
    policy::TensorInfo info{.id = static_cast<uint32_t>(t),
                            .name = "layer" + std::to_string(t),
                            .elements = 1,
                            .shape = shapes[static_cast<size_t>(t) % shapes.size()]};
    for (const int64_t n : info.shape) info.elements *= static_cast<uint64_t>(n);
    tensors.push_back(std::move(info));
  }
  return tensors;
}

// A job as its controller sees it: it takes orders up, and its gradients change.
class Job {
 public:
  Job(const Options& options, int number, const std::vector<policy::TensorInfo>& tensors,
      const std::vector<policy::Candidates>& candidates, const std::string& config)
      : candidates_(candidates), number_(number) {
    registration_.set_instance("load-generator-" + std::to_string(1000000 + number));
    registration_.set_name("job");
    registration_.set_world_size(options.ranks);
    registration_.set_config(config);
    for (size_t t = 0; t < tensors.size(); ++t) {
      v1::TensorInfo& tensor = *registration_.add_tensors();
      tensor.set_name(tensors[t].name);
      for (const int64_t n : tensors[t].shape) tensor.add_shape(n);
      report_.add_tensors()->set_setting(candidates[t].Fixed() ? "none" : "quantize:4");
    }
    report_.set_instance(registration_.instance());
    report_.set_step_ms(10);
  }

  grpc::Status Register(v1::Controller::Stub* stub) {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    v1::RegisterJobResponse response;
    const grpc::Status status = stub->RegisterJob(&context, registration_, &response);
    report_.set_job_id(response.job_id());
    return status;
  }

  // True: it was given another plan.
  grpc::Status Report(v1::Controller::Stub* stub, bool* ordered) {
    report_.set_step(report_.step() + 100);
    for (int t = 0; t < report_.tensors_size(); ++t) {
      v1::TensorState& tensor = *report_.mutable_tensors(t);
      tensor.clear_squared_error();
      if (candidates_[static_cast<size_t>(t)].Fixed()) continue;
      // Layers grow and shrink against each other, each job in its own time.
      const double phase = 0.005 * static_cast<double>(report_.step()) / 100 + t + number_;
      const double scale = std::exp(2 * std::sin(phase));
      tensor.set_norm(scale);
      for (const policy::Candidate& candidate : candidates_[static_cast<size_t>(t)].all) {
        const double levels = std::ldexp(1.0, static_cast<int>(candidate.row.params.bits)) - 1;
        tensor.add_squared_error(candidate.row.codec == wire::Codec::kNone ? 0 : scale / (levels * levels));
      }
    }
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    v1::ReportStepResponse response;
    const grpc::Status status = stub->ReportStep(&context, report_, &response);
    *ordered = status.ok() && response.has_order();
    if (!*ordered) return status;
    for (int t = 0; t < report_.tensors_size(); ++t) {
      report_.mutable_tensors(t)->set_setting(response.order().settings(t));
      report_.mutable_tensors(t)->set_reason(response.order().reasons(t));
    }
    report_.set_version(report_.version() + 1);
    report_.set_since(report_.step());
    return status;
  }

 private:
  const std::vector<policy::Candidates>& candidates_;
  const int number_;
  v1::RegisterJobRequest registration_;
  v1::ReportStepRequest report_;
};

struct Taken {
  std::vector<double> ms;          // of reports
  std::vector<double> ordered_ms;  // of those that were answered with a plan
  uint64_t errors = 0;
};

Json Quantiles(std::vector<double> ms) {
  if (ms.empty()) return {{"count", 0}};
  std::sort(ms.begin(), ms.end());
  const auto at = [&](double q) { return ms[static_cast<size_t>(q * static_cast<double>(ms.size() - 1))]; };
  return {
      {"count", ms.size()}, {"median", at(0.5)}, {"p95", at(0.95)}, {"p99", at(0.99)}, {"worst", ms.back()}};
}

// Each thread has its share of the jobs, and reports for them in turn, so that their reports are spread over
// the period.
Taken Drive(const Options& options, const std::string& address, std::vector<Job*> jobs,
            std::atomic<uint64_t>* reports) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto stub = v1::Controller::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  Taken taken;
  for (Job* const job : jobs) taken.errors += job->Register(stub.get()).ok() ? 0 : 1;
  const Clock::time_point begin = Clock::now();
  const double between = options.period_s / static_cast<double>(jobs.size());
  for (uint64_t i = 0; SecondsSince(begin) < options.seconds; ++i) {
    std::this_thread::sleep_until(begin +
                                  std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(static_cast<double>(i) * between)));
    const Clock::time_point sent = Clock::now();
    bool ordered = false;
    if (!jobs[i % jobs.size()]->Report(stub.get(), &ordered).ok()) ++taken.errors;
    const double ms = 1e3 * SecondsSince(sent);
    taken.ms.push_back(ms);
    if (ordered) taken.ordered_ms.push_back(ms);
    ++*reports;
  }
  return taken;
}

Json Measure(const Options& options) {
  wire::Settings settings;
  for (const auto& [key, value] : {std::pair("policy.name", "lgreco"), std::pair("policy.interval", "100")}) {
    if (!settings.Set(key, value, wire::Origin::kFlag).ok()) throw std::logic_error(key);
  }
  const std::vector<policy::TensorInfo> tensors = TensorsOf(options.tensors);
  std::vector<policy::Candidates> candidates;
  for (const policy::TensorInfo& tensor : tensors)
    candidates.push_back(policy::CandidatesOf(settings.config(), options.ranks, tensor));
  const std::string config = wire::AgreedText(settings.config());
  std::vector<std::unique_ptr<Job>> jobs;
  std::vector<std::vector<Job*>> shares(static_cast<size_t>(options.threads));
  for (int j = 0; j < options.jobs; ++j) {
    jobs.push_back(std::make_unique<Job>(options, j, tensors, candidates, config));
    shares[static_cast<size_t>(j % options.threads)].push_back(jobs.back().get());
  }

  const Controller controller(options.controller);
  std::vector<Taken> taken(shares.size());
  std::vector<std::thread> threads;
  std::atomic<uint64_t> reports{0};
  for (size_t i = 0; i < shares.size(); ++i) {
    threads.emplace_back([&, i] { taken[i] = Drive(options, controller.address(), shares[i], &reports); });
  }
  // Without the registrations.
  while (reports == 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const Clock::time_point begin = Clock::now();
  const double cpu = controller.CpuSeconds();
  while (SecondsSince(begin) < options.seconds - 1) {
    std::this_thread::sleep_for(std::chrono::seconds(1));
    if (isatty(STDERR_FILENO) != 0)
      std::fprintf(stderr, "\r%.0f of %.0f s, %llu reports", SecondsSince(begin), options.seconds,
                   static_cast<unsigned long long>(reports.load()));
  }
  const double used = (controller.CpuSeconds() - cpu) / SecondsSince(begin);
  const double reached = static_cast<double>(reports) / SecondsSince(begin);
  for (std::thread& thread : threads) thread.join();
  if (isatty(STDERR_FILENO) != 0) std::fputs("\r\x1b[K", stderr);
  Taken all;
  for (const Taken& one : taken) {
    all.ms.insert(all.ms.end(), one.ms.begin(), one.ms.end());
    all.ordered_ms.insert(all.ordered_ms.end(), one.ordered_ms.begin(), one.ordered_ms.end());
    all.errors += one.errors;
  }
  return {{"jobs", options.jobs},
          {"ranks", options.ranks},
          {"tensors", options.tensors},
          {"asked_per_s", options.jobs / options.period_s},
          {"reached_per_s", reached},
          {"report_ms", Quantiles(all.ms)},
          {"plan_ms", Quantiles(all.ordered_ms)},
          {"errors", all.errors},
          {"cores", used},
          {"peak_bytes", controller.PeakBytes()},
          {"store_bytes", controller.StoreBytes()}};
}

void Print(const Json& result) {
  std::printf(
      "%d jobs of %d ranks and %d tensors; %.0f reports a second asked for, %.0f reached, %llu errors\n",
      result["jobs"].get<int>(), result["ranks"].get<int>(), result["tensors"].get<int>(),
      result["asked_per_s"].get<double>(), result["reached_per_s"].get<double>(),
      static_cast<unsigned long long>(result["errors"].get<uint64_t>()));
  std::printf("controller: %.2f cores, %.0f MB at most, store %.0f MB\n\n", result["cores"].get<double>(),
              result["peak_bytes"].get<double>() / 1e6, result["store_bytes"].get<double>() / 1e6);
  std::printf("%-24s  %8s  %8s  %8s  %8s  %8s\n", "ms", "count", "median", "95 %", "99 %", "worst");
  for (const auto& [key, name] :
       {std::pair("report_ms", "answers"), std::pair("plan_ms", "answers with a plan")}) {
    const Json& row = result[key];
    if (row["count"] == 0) continue;
    std::printf("%-24s  %8llu  %8.2f  %8.2f  %8.2f  %8.2f\n", name,
                static_cast<unsigned long long>(row["count"].get<uint64_t>()), row["median"].get<double>(),
                row["p95"].get<double>(), row["p99"].get<double>(), row["worst"].get<double>());
  }
}

}  // namespace
}  // namespace terse

int main(int argc, char** argv) {
  terse::Options options;
  std::error_code error;
  options.controller = std::filesystem::canonical("/proc/self/exe", error).parent_path() / "terse-controller";
  CLI::App app(
      "Many simulated jobs that report to one terse-controller on this machine: its use of processor and "
      "memory, and how "
      "long jobs wait for answers and plans. Jobs use L-GreCo over quantize, and their gradients change.");
  app.add_option("--jobs", options.jobs, "how many")->check(CLI::Range(1, 100000))->capture_default_str();
  app.add_option("--ranks", options.ranks, "of each")->check(CLI::Range(2, 1 << 20))->capture_default_str();
  app.add_option("--tensors", options.tensors, "of each, of unequal shapes")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--period", options.period_s, "seconds between two reports of a job")
      ->check(CLI::Range(0.001, 3600.0))
      ->capture_default_str();
  app.add_option("--seconds", options.seconds, "of measuring")
      ->check(CLI::Range(2.0, 36000.0))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "that play the jobs, a connection each")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--controller", options.controller, "the program")->capture_default_str();
  app.add_flag("--json", options.json, "print JSON");
  CLI11_PARSE(app, argc, argv);
  options.threads = std::min(options.threads, options.jobs);
  try {
    const terse::Json result = terse::Measure(options);
    if (options.json) {
      std::printf("%s\n", result.dump(1).c_str());
    } else {
      terse::Print(result);
    }
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "controller_load: %s\n", failure.what());
    return 1;
  }
  return 0;
}
