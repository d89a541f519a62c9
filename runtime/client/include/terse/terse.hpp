// SPDX-License-Identifier: Apache-2.0
//
// C++ over <terse/terse.h>: the same calls with owners and exceptions instead of handles and statuses.
// Header only, so the exceptions never cross a library boundary. Semantics, threads and units are those
// of terse.h; only what differs is said here.
#ifndef TERSE_TERSE_HPP_
#define TERSE_TERSE_HPP_

#include <terse/terse.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace terse {

// What a failed call throws: status() for programs, what() for people.
class Error : public std::runtime_error {
 public:
  Error(terse_status_t status, const std::string& detail)
      : std::runtime_error(std::string(terse_status_string(status)) + ": " + detail), status_(status) {}
  terse_status_t status() const noexcept { return status_; }

 private:
  terse_status_t status_;
};

inline void Check(terse_status_t status) {
  if (status != TERSE_OK) throw Error(status, terse_last_error());
}

using TensorId = terse_tensor_t;

// A submitted exchange. Wait before the group is closed; destroying a request that was not waited for
// waits for it and swallows the error.
class Request {
 public:
  Request() = default;
  explicit Request(terse_request_t* handle) : handle_(handle) {}
  Request(Request&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Request& operator=(Request&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;
  ~Request() {
    if (handle_ != nullptr) (void)terse_wait(handle_);
  }

  void Wait() {
    if (handle_ != nullptr) Check(terse_wait(std::exchange(handle_, nullptr)));
  }
  bool Test() {
    if (handle_ == nullptr) return true;
    int32_t done = 0;
    const terse_status_t status = terse_test(handle_, &done);
    if (done != 0 || status != TERSE_OK) handle_ = nullptr;
    Check(status);
    return done != 0;
  }

 private:
  terse_request_t* handle_ = nullptr;
};

// Owns a group. Movable; closed by the destructor, where an error is swallowed (call Close to see it).
class Group {
 public:
  // From YAML text; the empty string reads TERSE_CONFIG and the environment.
  explicit Group(const std::string& config_yaml = "") {
    Check(terse_group_open(config_yaml.empty() ? nullptr : config_yaml.c_str(), &handle_));
  }
  // Takes over a group opened in C (terse_group_open_mpi).
  explicit Group(terse_group_t* handle) : handle_(handle) {}
  Group(Group&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Group& operator=(Group&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group() { (void)terse_group_close(handle_); }

  void Close() { Check(terse_group_close(std::exchange(handle_, nullptr))); }

  int32_t rank() const {
    int32_t out = 0;
    Check(terse_group_rank(handle_, &out));
    return out;
  }
  int32_t size() const {
    int32_t out = 0;
    Check(terse_group_size(handle_, &out));
    return out;
  }

  TensorId Register(const std::string& name, const std::vector<int64_t>& shape,
                    terse_dtype_t dtype = TERSE_FLOAT32) {
    TensorId out = -1;
    Check(terse_tensor_register(handle_, name.c_str(), dtype, shape.data(),
                                static_cast<int32_t>(shape.size()), &out));
    return out;
  }

  void Allreduce(TensorId tensor, const void* send, void* recv) {
    Check(terse_allreduce(handle_, tensor, send, recv));
  }
  void AllreduceMany(const std::vector<TensorId>& tensors, const std::vector<const void*>& send,
                     const std::vector<void*>& recv) {
    if (send.size() != tensors.size() || recv.size() != tensors.size()) {
      throw Error(TERSE_INVALID_ARGUMENT, "AllreduceMany: tensors, send and recv differ in length");
    }
    Check(terse_allreduce_many(handle_, static_cast<int32_t>(tensors.size()), tensors.data(), send.data(),
                               recv.data()));
  }
  Request AllreduceAsync(TensorId tensor, const void* send, void* recv) {
    terse_request_t* request = nullptr;
    Check(terse_allreduce_async(handle_, tensor, send, recv, &request));
    return Request(request);
  }
  void Step(double applied = 1.0) { Check(terse_step(handle_, applied)); }
  // One flag an element of `tensor`; empty: all take part.
  void SetMask(TensorId tensor, const std::vector<uint8_t>& mask) {
    Check(terse_tensor_set_mask(handle_, tensor, mask.empty() ? nullptr : mask.data()));
  }
  void SetExact(bool exact) { Check(terse_group_set_exact(handle_, exact ? 1 : 0)); }
  void SetStepsOutside(TensorId tensor, int64_t steps) {
    Check(terse_tensor_set_steps_outside(handle_, tensor, steps));
  }
  int64_t DenseRun(TensorId tensor) {
    int64_t exchanges = 0;
    Check(terse_tensor_dense_run(handle_, tensor, &exchanges));
    return exchanges;
  }
  void SetGlobalBatch(int64_t samples) { Check(terse_group_set_global_batch(handle_, samples)); }
  void SetLossScale(double scale) { Check(terse_group_set_loss_scale(handle_, scale)); }

  // True when the update was applied, false when the step was skipped for a non-finite result.
  bool OptimizerStep(const std::vector<TensorId>& tensors, const std::vector<const void*>& grads,
                     const std::vector<void*>& params, double learning_rate) {
    if (grads.size() != tensors.size() || params.size() != tensors.size()) {
      throw Error(TERSE_INVALID_ARGUMENT, "OptimizerStep: tensors, grads and params differ in length");
    }
    int32_t applied = 0;
    Check(terse_optimizer_step(handle_, static_cast<int32_t>(tensors.size()), tensors.data(), grads.data(),
                               params.data(), learning_rate, &applied));
    return applied != 0;
  }

  void SaveState(const std::string& path) { Check(terse_state_save(handle_, path.c_str())); }
  void LoadState(const std::string& path) { Check(terse_state_load(handle_, path.c_str())); }

  std::string Report() const {
    char* json = nullptr;
    Check(terse_group_report(handle_, &json));
    const std::unique_ptr<char, void (*)(char*)> owner(json, terse_string_free);
    return owner.get();
  }

  terse_group_t* handle() const { return handle_; }

 private:
  terse_group_t* handle_ = nullptr;
};

// One trainable parameter and its gradient: n contiguous fp32 each.
struct Parameter {
  std::string name;
  std::vector<int64_t> shape;
};

// An optimizer that owns the exchange: registers the parameters' gradients and does the whole update in
// Step. What it computes is the group's method:
//   SgdDgc       method dgc: momentum SGD whose momentum lives in the compressor (w -= lr * update)
//   OneBitAdam   method onebit_adam: exact Adam until adam.freeze, one bit per element afterwards
// A group opened with another method is refused, because the update would silently be another one.
class Optimizer {
 public:
  Optimizer(Group* group, const std::vector<Parameter>& parameters) : group_(group) {
    for (const Parameter& p : parameters) tensors_.push_back(group_->Register(p.name, p.shape));
  }
  // grads[i] may be null: no gradient for parameter i on this rank in this step (counts as zero).
  // False: the step was skipped because a rank's gradient was not finite; parameters are untouched.
  bool Step(const std::vector<const float*>& grads, const std::vector<float*>& params, double learning_rate) {
    return group_->OptimizerStep(tensors_, {grads.begin(), grads.end()}, {params.begin(), params.end()},
                                 learning_rate);
  }
  const std::vector<TensorId>& tensors() const { return tensors_; }

 protected:
  static void RequireMethod(const Group& group, const std::string& method);
  Group* group_;

 private:
  std::vector<TensorId> tensors_;
};

class SgdDgc : public Optimizer {
 public:
  SgdDgc(Group* group, const std::vector<Parameter>& parameters) : Optimizer(Require(group), parameters) {}

 private:
  static Group* Require(Group* group) {
    RequireMethod(*group, "dgc");
    return group;
  }
};

class OneBitAdam : public Optimizer {
 public:
  OneBitAdam(Group* group, const std::vector<Parameter>& parameters)
      : Optimizer(Require(group), parameters) {}

 private:
  static Group* Require(Group* group) {
    RequireMethod(*group, "onebit_adam");
    return group;
  }
};

inline void Optimizer::RequireMethod(const Group& group, const std::string& method) {
  // The report's "method" is the configuration's, spelled as in the key table.
  if (group.Report().find("\"method\":\"" + method + "\"") == std::string::npos) {
    throw Error(TERSE_CONFIG_INVALID, "this optimizer needs a group opened with method: " + method);
  }
}

}  // namespace terse

#endif  // TERSE_TERSE_HPP_
