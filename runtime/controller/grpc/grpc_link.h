// SPDX-License-Identifier: Apache-2.0
//
// The link to a terse-controller by gRPC (link.h). A thread of its own talks to the controller, so that rank
// 0 never waits for it: calls have deadlines, and what cannot be said now is said later, by then newer.
#ifndef TERSE_RUNTIME_CONTROLLER_GRPC_GRPC_LINK_H_
#define TERSE_RUNTIME_CONTROLLER_GRPC_GRPC_LINK_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "proto/terse/v1/controller.grpc.pb.h"
#include "proto/wire/config.h"
#include "runtime/controller/link/link.h"
#include "transport/inproc/mutex.h"

namespace terse::controller {

class GrpcLink final : public Link {
 public:
  // By config.controller and config.tls. Connects when there is something to say.
  static absl::StatusOr<std::unique_ptr<GrpcLink>> Open(const wire::Config& config);
  ~GrpcLink() override;

  void Post(std::shared_ptr<const JobDescription> job, JobReport report) override;
  std::optional<Order> Take() override;
  LinkState state() const override;

 private:
  struct Message {
    std::shared_ptr<const JobDescription> job;
    JobReport report;
  };

  GrpcLink(std::shared_ptr<grpc::Channel> channel, std::string token);

  void Talk();  // the thread
  // Says one thing; what is left to do with it afterwards.
  enum class Outcome { kSaid, kLater, kRegister, kNever };
  Outcome Register(const JobDescription& job);
  Outcome Report(const JobReport& report);
  void Finish();
  Outcome Judge(const grpc::Status& status, const char* doing);
  void Prepare(grpc::ClientContext* context, std::chrono::milliseconds patience);
  // The call that runs, so that closing can end it.
  void SetCurrent(grpc::ClientContext* context);

  const std::string token_;
  const std::string instance_;
  const std::unique_ptr<v1::Controller::Stub> stub_;

  // The thread's own.
  std::string job_id_;                                // empty: not registered
  std::shared_ptr<const JobDescription> registered_;  // as what

  mutable transport::Mutex mutex_;
  transport::CondVar called_;  // there is something to say, or it closes
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* current_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::optional<Message> pending_ ABSL_GUARDED_BY(mutex_);
  std::optional<Order> order_ ABSL_GUARDED_BY(mutex_);
  LinkState state_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;  // last: it uses everything above
};

}  // namespace terse::controller

#endif  // TERSE_RUNTIME_CONTROLLER_GRPC_GRPC_LINK_H_
