// SPDX-License-Identifier: Apache-2.0
//
// What rank 0 of a job has of a controller that runs elsewhere: it posts what was measured and takes the
// orders that have come. Neither waits. Losing the controller costs orders, nothing else: the job goes on
// under its last plan, and a link tries again by itself until it is closed.
//
// The implementation is a plug-in, libterse_controller_grpc.so, so that gRPC is in no process that has not
// asked for a controller. Plug-in and library are of one build; only the ABI number below is checked.
#ifndef TERSE_RUNTIME_CONTROLLER_LINK_LINK_H_
#define TERSE_RUNTIME_CONTROLLER_LINK_LINK_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "proto/wire/config.h"
#include "runtime/controller/policy/static_policy.h"

namespace terse::controller {

// The job, as its controller knows it. It may grow: a tensor can be registered at any time.
struct JobDescription {
  std::string name = {};
  std::string host = {};  // of rank 0
  int64_t process = 0;
  int world_size = 0;
  std::string config = {};  // wire::AgreedText
  std::vector<policy::TensorInfo> tensors = {};
};

// One tensor since the last report, or as it is now.
struct TensorReport {
  std::string setting = {};  // in force by the plan (policy/setting.h)
  std::string reason = {};
  std::string path =
      {};           // codec that it goes by: "none" where dense is faster or the job asked for exact steps
  double norm = 0;  // of its gradient; 0: not measured
  double residual_norm = 0;  // on rank 0
  double bytes_sent = 0;     // by rank 0, so far
  double dense_bytes = 0;    // that dense would have sent
  double compressed_ms = 0;  // of an exchange, by the last trial; 0: there was none
  double dense_ms = 0;
  double ready_ms = 0;  // that the job computes before it; 0: not measured
  double wire_ms = 0;   // of an exchange, since the last report; 0: not measured
  double codec_ms = 0;
  std::vector<double> squared_error = {};  // by candidate; empty: not measured
};

struct JobReport {
  uint64_t step = 0;
  uint32_t version = 0;   // of the plan in force: how many plans a controller has brought
  uint64_t since = 0;     // the step since which it is
  double step_ms = 0;     // of a step, since the last report
  double measure_ms = 0;  // on rank 0, so far
  uint64_t skipped = 0;   // steps, so far
  std::string why = {};   // of the plan in force
  std::vector<TensorReport> tensors = {};
};

// A plan for the job.
struct Order {
  uint32_t follows = 0;                    // the version of the plan that it was made for
  std::vector<std::string> settings = {};  // by tensor
  std::vector<std::string> reasons = {};
  std::string why = {};
  double bytes = 0;  // as policy::AdaptiveOutcome
  double uniform_bytes = 0;
  double error = 0;
  double budget = 0;
  double lower_bound = 0;
  double finish_ms = 0;
  double uniform_finish_ms = 0;
  std::string way = {};
};

struct LinkState {
  bool connected = false;
  std::string what = {};  // in words, for the report: "connected since step 300", "no answer: ..."
  uint64_t reports = 0;   // that arrived
  uint64_t orders = 0;    // that came
  uint64_t losses = 0;    // of the connection
};

// One owner; all calls from its thread.
class Link {
 public:
  virtual ~Link() = default;  // tells the controller that the job is over, if that is quickly done

  // The description holds until another is given; null: unchanged. A report that has not gone out is
  // replaced by a newer one.
  virtual void Post(std::shared_ptr<const JobDescription> job, JobReport report) = 0;
  // The newest order that has not been taken.
  virtual std::optional<Order> Take() = 0;
  virtual LinkState state() const = 0;
};

// The plug-in's entry point.
inline constexpr uint32_t kLinkAbi = 1;
inline constexpr char kLinkEntryName[] = "terse_controller_link_v1";
struct LinkDescriptor {
  uint32_t abi;
  const char* build;
  // INVALID_ARGUMENT or NOT_FOUND for files that cannot be read; a controller that is not there is no error.
  Link* (*open)(const wire::Config* config, absl::Status* error);
};
using LinkEntry = const LinkDescriptor* (*)();

}  // namespace terse::controller

#endif  // TERSE_RUNTIME_CONTROLLER_LINK_LINK_H_
