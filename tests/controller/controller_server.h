// SPDX-License-Identifier: Apache-2.0
//
// A terse-controller in a test's process, over a real channel, and what a job would say to it.
#ifndef TERSE_TESTS_CONTROLLER_CONTROLLER_SERVER_H_
#define TERSE_TESTS_CONTROLLER_CONTROLLER_SERVER_H_

#include <stdlib.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "proto/terse/v1/controller.grpc.pb.h"
#include "proto/wire/config.h"
#include "runtime/controller/service/server.h"

namespace terse::controller {

inline constexpr char kReadToken[] = "read-token-0123456789";
inline constexpr char kOperateToken[] = "operate-token-0123456789";
inline constexpr char kJobToken[] = "job-token-0123456789";

inline std::string ConfigText(const std::vector<std::pair<std::string, std::string>>& keys) {
  wire::Settings settings;
  for (const auto& [key, value] : keys)
    EXPECT_TRUE(settings.Set(key, value, wire::Origin::kFlag).ok()) << key;
  return wire::AgreedText(settings.config());
}

inline v1::RegisterJobRequest Registration(const std::string& instance = std::string(16, 'i')) {
  v1::RegisterJobRequest request;
  request.set_instance(instance);
  request.set_name("train me");
  request.set_host("node1");
  request.set_world_size(4);
  request.set_config(ConfigText({{"policy.name", "lgreco"}, {"policy.interval", "10"}}));
  for (const auto& [name, rows, columns] :
       {std::tuple("conv", 256, 128), std::tuple("fc", 512, 1024), std::tuple("bias", 1, 64)}) {
    v1::TensorInfo& tensor = *request.add_tensors();
    tensor.set_name(name);
    tensor.add_shape(rows);
    tensor.add_shape(columns);
  }
  return request;
}

// What a job says that goes by `settings`, with gradients for which lgreco changes something.
inline v1::ReportStepRequest ReportOf(const std::string& job, uint64_t step, uint32_t version = 0,
                                      const std::vector<std::string>& settings = {"quantize:4", "quantize:4",
                                                                                  "none"},
                                      const std::string& instance = std::string(16, 'i')) {
  v1::ReportStepRequest report;
  report.set_job_id(job);
  report.set_instance(instance);
  report.set_step(step);
  report.set_version(version);
  report.set_step_ms(5);
  for (size_t t = 0; t < settings.size(); ++t) {
    v1::TensorState& tensor = *report.add_tensors();
    tensor.set_setting(settings[t]);
    tensor.set_reason("because");
    tensor.set_path(settings[t].substr(0, settings[t].find(':')));
    tensor.set_bytes_sent(10);
    tensor.set_dense_bytes(70);
    if (t == 2) continue;
    tensor.set_norm(1);
    tensor.add_squared_error(0);
    for (int bits = 2; bits <= 8; ++bits)
      tensor.add_squared_error((t == 0 ? 100.0 : 1.0) / std::pow(4, bits));
  }
  return report;
}

class ControllerTest : public ::testing::Test {
 protected:
  ControllerTest() {
    char name[] = "/tmp/terse_service_XXXXXX";
    folder_ = mkdtemp(name);
    options_.listen = "127.0.0.1:0";
    options_.store = (folder_ / "store.db").string();
  }
  ~ControllerTest() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Start() {
    server_.reset();
    auto server = Server::Start(options_, [this] { return now_us_.load(); });
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->port()),
                                   grpc::InsecureChannelCredentials());
    stub_ = v1::Controller::NewStub(channel_);
  }

  void WriteTokens() {
    options_.tokens = (folder_ / "tokens").string();
    std::ofstream(options_.tokens) << "# who may what\nread reader " << kReadToken << "\noperate operator "
                                   << kOperateToken << "\njob jobs " << kJobToken << "\n";
    chmod(options_.tokens.c_str(), 0600);
  }

  // Calls a method; the token is sent if there is one.
  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (v1::Controller::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                 Response*),
                    const Request& request, Response* response, const std::string& token = "") {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
    return (stub_.get()->*method)(&context, request, response);
  }

  std::string Register(const v1::RegisterJobRequest& request = Registration()) {
    v1::RegisterJobResponse response;
    const grpc::Status status = Call(&v1::Controller::Stub::RegisterJob, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.job_id();
  }
  v1::ReportStepResponse Report(const v1::ReportStepRequest& report) {
    v1::ReportStepResponse response;
    const grpc::Status status = Call(&v1::Controller::Stub::ReportStep, report, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  grpc::StatusCode ReportCode(const v1::ReportStepRequest& report, std::string* message = nullptr) {
    v1::ReportStepResponse response;
    const grpc::Status status = Call(&v1::Controller::Stub::ReportStep, report, &response);
    if (message != nullptr) *message = status.error_message();
    return status.error_code();
  }
  v1::Job Get(const std::string& id) {
    v1::GetJobRequest request;
    request.set_job_id(id);
    v1::Job job;
    EXPECT_TRUE(Call(&v1::Controller::Stub::GetJob, request, &job).ok());
    return job;
  }
  std::vector<v1::Plan> Plans(const std::string& id) {
    v1::ListPlansRequest request;
    request.set_job_id(id);
    v1::ListPlansResponse response;
    EXPECT_TRUE(Call(&v1::Controller::Stub::ListPlans, request, &response).ok());
    return {response.plans().begin(), response.plans().end()};
  }
  grpc::Status Pin(const std::string& id, const std::string& tensor, const std::string& setting) {
    v1::PinTensorRequest request;
    request.set_job_id(id);
    request.set_tensor(tensor);
    request.set_setting(setting);
    v1::CommandResponse response;
    return Call(&v1::Controller::Stub::PinTensor, request, &response);
  }

  std::filesystem::path folder_;
  ServerOptions options_;
  std::atomic<int64_t> now_us_{1'000'000'000};
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Controller::Stub> stub_;
};

}  // namespace terse::controller

#endif  // TERSE_TESTS_CONTROLLER_CONTROLLER_SERVER_H_
