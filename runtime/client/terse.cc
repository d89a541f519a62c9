// SPDX-License-Identifier: Apache-2.0
//
// The C API over the engine: checks of what C cannot check, statuses for absl::Status, and the border
// that no exception crosses.
#include <terse/terse.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "compressors/kernels/dispatch.h"
#include "proto/wire/config_text.h"
#include "runtime/client/config_loader.h"
#include "runtime/client/controller_link.h"
#include "runtime/client/plan_solve.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/state_show.h"
#include "transport/loader.h"

struct terse_request {
  terse_group_t* group = nullptr;
  uint32_t tensor = 0;
};

struct terse_group {
  std::unique_ptr<terse::engine::Engine> engine;
  // Requests that have not been collected, by tensor: a tensor has at most one. Freed with the group.
  std::map<uint32_t, std::unique_ptr<terse_request_t>> requests = {};
};

namespace {

using terse::engine::Call;
using terse::engine::Engine;

std::string& LastError() {
  thread_local std::string message;
  return message;
}

terse_status_t CodeOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return TERSE_OK;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kOutOfRange:
      return TERSE_INVALID_ARGUMENT;
    case absl::StatusCode::kNotFound:
      return TERSE_NOT_FOUND;
    case absl::StatusCode::kAborted:
      return TERSE_MISMATCH;
    case absl::StatusCode::kUnavailable:
      return TERSE_UNAVAILABLE;
    case absl::StatusCode::kDeadlineExceeded:
      return TERSE_TIMEOUT;
    case absl::StatusCode::kDataLoss:
      return TERSE_DATA_LOSS;
    case absl::StatusCode::kFailedPrecondition:
      return TERSE_FAILED;
    case absl::StatusCode::kUnimplemented:
      return TERSE_UNIMPLEMENTED;
    default:
      return TERSE_INTERNAL;
  }
}

terse_status_t Fail(terse_status_t status, absl::string_view detail) {
  LastError() = std::string(detail);
  return status;
}

terse_status_t ToC(const absl::Status& status) {
  return status.ok() ? TERSE_OK : Fail(CodeOf(status.code()), status.message());
}

// Runs `body` (returns terse_status_t); nothing that is thrown inside passes the C border.
template <typename Body>
terse_status_t Guarded(Body body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return Fail(TERSE_INTERNAL, "out of memory");
  } catch (const std::exception& e) {
    return Fail(TERSE_INTERNAL, e.what());
  }
}

// As Guarded, for calls on a group.
template <typename Body>
terse_status_t OnGroup(const terse_group_t* group, Body body) {
  if (group == nullptr) return Fail(TERSE_INVALID_ARGUMENT, "group is NULL");
  return Guarded([&] { return body(*group->engine); });
}

terse_status_t NullArgument(absl::string_view name) {
  return Fail(TERSE_INVALID_ARGUMENT, absl::StrCat(name, " is NULL"));
}

terse_status_t CopyOut(const std::string& text, char** out) {
  auto* const copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) return Fail(TERSE_INTERNAL, "out of memory");
  std::memcpy(copy, text.c_str(), text.size() + 1);
  *out = copy;
  return TERSE_OK;
}

absl::StatusOr<terse::wire::Settings> Load(const char* config_yaml) {
  absl::StatusOr<terse::wire::Settings> settings =
      terse::client::LoadSettings(config_yaml, terse::client::CurrentEnvironment());
  if (!settings.ok()) return settings.status();
  if (absl::Status status = settings->Validate(); !status.ok()) return status;
  return settings;
}

// A file that is not there is TERSE_NOT_FOUND; everything else about a configuration is its content.
terse_status_t ConfigError(const absl::Status& status) {
  return absl::IsNotFound(status) ? ToC(status) : Fail(TERSE_CONFIG_INVALID, status.message());
}

terse_status_t Open(const char* config_yaml, const char* abi, int64_t fcomm, terse_group_t** out) {
  if (out == nullptr) return NullArgument("out");
  *out = nullptr;
  return Guarded([&]() -> terse_status_t {
    const absl::StatusOr<terse::wire::Settings> settings = Load(config_yaml);
    if (!settings.ok()) return ConfigError(settings.status());
    if (absl::Status status = terse::kernels::CheckSimdEnvironment(); !status.ok())
      return ConfigError(status);
    const terse::wire::Config& config = settings->config();
    terse::transport::OpenOptions options;
    options.rank = static_cast<int>(config.rank);
    options.world_size = static_cast<int>(config.world_size);
    options.hub = config.transport.hub;
    options.timeout = std::chrono::seconds(config.transport.timeout_s);
    std::string name = config.transport.name;
    if (abi != nullptr) {
      options.has_communicator = true;
      options.communicator = fcomm;
      name = absl::StrCat("mpi_", abi);
    }
    absl::StatusOr<std::unique_ptr<terse::transport::Group>> group =
        terse::transport::OpenGroup(name, options);
    if (!group.ok()) return ToC(group.status());
    absl::StatusOr<std::unique_ptr<Engine>> engine =
        Engine::Open(config, *std::move(group), terse::engine::TimeSource::Machine(),
                     [&config] { return terse::client::OpenControllerLink(config); });
    if (!engine.ok()) return ToC(engine.status());
    *out = new terse_group{.engine = *std::move(engine)};
    return TERSE_OK;
  });
}

}  // namespace

extern "C" {

int32_t terse_version(void) { return TERSE_VERSION_NUMBER; }

const char* terse_status_string(terse_status_t status) {
  switch (status) {
    case TERSE_OK:
      return "TERSE_OK";
    case TERSE_INVALID_ARGUMENT:
      return "TERSE_INVALID_ARGUMENT";
    case TERSE_CONFIG_INVALID:
      return "TERSE_CONFIG_INVALID";
    case TERSE_NOT_FOUND:
      return "TERSE_NOT_FOUND";
    case TERSE_MISMATCH:
      return "TERSE_MISMATCH";
    case TERSE_UNAVAILABLE:
      return "TERSE_UNAVAILABLE";
    case TERSE_TIMEOUT:
      return "TERSE_TIMEOUT";
    case TERSE_DATA_LOSS:
      return "TERSE_DATA_LOSS";
    case TERSE_FAILED:
      return "TERSE_FAILED";
    case TERSE_UNIMPLEMENTED:
      return "TERSE_UNIMPLEMENTED";
    case TERSE_INTERNAL:
      return "TERSE_INTERNAL";
    case TERSE_INFEASIBLE:
      return "TERSE_INFEASIBLE";
  }
  return "unknown status";
}

const char* terse_last_error(void) { return LastError().c_str(); }

terse_status_t terse_group_open(const char* config_yaml, terse_group_t** out) {
  return Open(config_yaml, nullptr, 0, out);
}

terse_status_t terse_group_open_fcomm(int64_t fcomm, const char* abi, const char* config_yaml,
                                      terse_group_t** out) {
  if (abi == nullptr) return NullArgument("abi");
  const absl::string_view name = abi;
  if (name != "openmpi" && name != "mpich") {
    return Fail(TERSE_INVALID_ARGUMENT,
                absl::StrCat("abi \"", name, "\" is neither openmpi nor mpich: this MPI is not supported"));
  }
  return Open(config_yaml, abi, fcomm, out);
}

terse_status_t terse_group_close(terse_group_t* group) {
  if (group == nullptr) return TERSE_OK;
  const std::unique_ptr<terse_group_t> owner(group);
  return Guarded([&] { return ToC(owner->engine->Close()); });
}

terse_status_t terse_group_rank(const terse_group_t* group, int32_t* out) {
  if (out == nullptr) return NullArgument("out");
  return OnGroup(group, [&](const Engine& engine) {
    *out = engine.rank();
    return TERSE_OK;
  });
}

terse_status_t terse_group_size(const terse_group_t* group, int32_t* out) {
  if (out == nullptr) return NullArgument("out");
  return OnGroup(group, [&](const Engine& engine) {
    *out = engine.size();
    return TERSE_OK;
  });
}

terse_status_t terse_tensor_register(terse_group_t* group, const char* name, terse_dtype_t dtype,
                                     const int64_t* shape, int32_t ndim, terse_tensor_t* out) {
  if (name == nullptr) return NullArgument("name");
  if (out == nullptr) return NullArgument("out");
  if (ndim < 0 || ndim > 64) return Fail(TERSE_INVALID_ARGUMENT, "ndim is not between 0 and 64");
  if (shape == nullptr && ndim > 0) return NullArgument("shape");
  // A C caller may pass any number, and C++ must not look at an enumeration that holds none of its values.
  uint32_t number = 0;
  static_assert(sizeof(dtype) == sizeof(number));
  std::memcpy(&number, &dtype, sizeof(number));
  if (number > TERSE_BFLOAT16) {
    return Fail(TERSE_INVALID_ARGUMENT, absl::StrCat("dtype ", number, " is not a terse_dtype_t"));
  }
  return OnGroup(group, [&](Engine& engine) {
    const absl::StatusOr<uint32_t> id = engine.Register(name, static_cast<terse::wire::DType>(number),
                                                        absl::MakeSpan(shape, static_cast<size_t>(ndim)));
    if (id.ok()) *out = static_cast<terse_tensor_t>(*id);
    return ToC(id.status());
  });
}

terse_status_t terse_tensor_set_mask(terse_group_t* group, terse_tensor_t tensor, const uint8_t* mask) {
  return OnGroup(group,
                 [&](Engine& engine) { return ToC(engine.SetMask(static_cast<uint32_t>(tensor), mask)); });
}

terse_status_t terse_tensor_set_steps_outside(terse_group_t* group, terse_tensor_t tensor, int64_t steps) {
  return OnGroup(group, [&](Engine& engine) {
    return ToC(engine.SetStepsOutside(static_cast<uint32_t>(tensor), steps));
  });
}

terse_status_t terse_allreduce(terse_group_t* group, terse_tensor_t tensor, const void* send, void* recv) {
  return terse_allreduce_many(group, 1, &tensor, &send, &recv);
}

terse_status_t terse_allreduce_many(terse_group_t* group, int32_t n, const terse_tensor_t* tensors,
                                    const void* const* send, void* const* recv) {
  if (n < 0) return Fail(TERSE_INVALID_ARGUMENT, "n is negative");
  if (n > 0 && tensors == nullptr) return NullArgument("tensors");
  if (n > 0 && send == nullptr) return NullArgument("send");
  if (n > 0 && recv == nullptr) return NullArgument("recv");
  return OnGroup(group, [&](Engine& engine) {
    std::vector<Call> calls;
    for (int32_t i = 0; i < n; ++i) {
      calls.push_back({.tensor = static_cast<uint32_t>(tensors[i]), .send = send[i], .recv = recv[i]});
    }
    return ToC(engine.Allreduce(calls));
  });
}

terse_status_t terse_allreduce_async(terse_group_t* group, terse_tensor_t tensor, const void* send,
                                     void* recv, terse_request_t** out) {
  if (out == nullptr) return NullArgument("out");
  *out = nullptr;
  return OnGroup(group, [&](Engine& engine) {
    auto request = std::make_unique<terse_request_t>(terse_request_t{group, static_cast<uint32_t>(tensor)});
    const absl::Status status = engine.Submit({.tensor = request->tensor, .send = send, .recv = recv});
    if (status.ok()) {
      *out = request.get();
      group->requests[request->tensor] = std::move(request);
    }
    return ToC(status);
  });
}

terse_status_t terse_wait(terse_request_t* request) {
  if (request == nullptr) return NullArgument("request");
  terse_group_t* const group = request->group;
  const uint32_t tensor = request->tensor;
  group->requests.erase(tensor);
  return Guarded([&] { return ToC(group->engine->Wait(tensor)); });
}

terse_status_t terse_test(terse_request_t* request, int32_t* done) {
  if (request == nullptr) return NullArgument("request");
  if (done == nullptr) return NullArgument("done");
  *done = 0;
  return Guarded([&] {
    const absl::StatusOr<bool> ended = request->group->engine->Test(request->tensor);
    if (!ended.ok() || *ended) {
      *done = 1;
      request->group->requests.erase(request->tensor);
    }
    return ToC(ended.status());
  });
}

terse_status_t terse_step(terse_group_t* group, double applied) {
  return OnGroup(group, [&](Engine& engine) { return ToC(engine.Step(applied)); });
}

terse_status_t terse_optimizer_step(terse_group_t* group, int32_t n, const terse_tensor_t* tensors,
                                    const void* const* grads, void* const* params, double learning_rate,
                                    int32_t* applied) {
  if (n < 0) return Fail(TERSE_INVALID_ARGUMENT, "n is negative");
  if (n > 0 && tensors == nullptr) return NullArgument("tensors");
  if (n > 0 && grads == nullptr) return NullArgument("grads");
  if (n > 0 && params == nullptr) return NullArgument("params");
  return OnGroup(group, [&](Engine& engine) {
    std::vector<Call> calls;
    std::vector<float*> parameters;
    for (int32_t i = 0; i < n; ++i) {
      calls.push_back({.tensor = static_cast<uint32_t>(tensors[i]), .send = grads[i]});
      parameters.push_back(static_cast<float*>(params[i]));
    }
    const absl::StatusOr<bool> done = engine.OptimizerStep(calls, parameters, learning_rate);
    if (done.ok() && applied != nullptr) *applied = *done ? 1 : 0;
    return ToC(done.status());
  });
}

terse_status_t terse_group_set_loss_scale(terse_group_t* group, double scale) {
  return OnGroup(group, [&](Engine& engine) { return ToC(engine.SetLossScale(scale)); });
}

terse_status_t terse_group_set_global_batch(terse_group_t* group, int64_t samples) {
  return OnGroup(group, [&](Engine& engine) { return ToC(engine.SetGlobalBatch(samples)); });
}

terse_status_t terse_group_set_exact(terse_group_t* group, int32_t exact) {
  return OnGroup(group, [&](Engine& engine) { return ToC(engine.SetExact(exact != 0)); });
}

terse_status_t terse_tensor_dense_run(terse_group_t* group, terse_tensor_t tensor, int64_t* exchanges) {
  if (exchanges == nullptr) return NullArgument("exchanges");
  return OnGroup(group, [&](const Engine& engine) {
    const absl::StatusOr<uint64_t> run = engine.DenseRun(static_cast<uint32_t>(tensor));
    if (run.ok()) *exchanges = static_cast<int64_t>(*run);
    return ToC(run.status());
  });
}

terse_status_t terse_state_save(terse_group_t* group, const char* path) {
  if (path == nullptr) return NullArgument("path");
  return OnGroup(group, [&](Engine& engine) { return ToC(engine.SaveState(path)); });
}

terse_status_t terse_state_load(terse_group_t* group, const char* path) {
  if (path == nullptr) return NullArgument("path");
  return OnGroup(group, [&](Engine& engine) { return ToC(engine.LoadState(path)); });
}

terse_status_t terse_state_show(const char* path, char** json) {
  if (path == nullptr) return NullArgument("path");
  if (json == nullptr) return NullArgument("json");
  return Guarded([&] {
    const absl::StatusOr<std::string> text = terse::engine::ShowState(path);
    return text.ok() ? CopyOut(*text, json) : ToC(text.status());
  });
}

terse_status_t terse_plan_solve(const char* problem, char** answer) {
  if (problem == nullptr) return NullArgument("problem");
  if (answer == nullptr) return NullArgument("answer");
  return Guarded([&] {
    const absl::StatusOr<std::string> json = terse::client::SolvePlan(problem);
    if (absl::IsOutOfRange(json.status())) return Fail(TERSE_INFEASIBLE, json.status().message());
    return json.ok() ? CopyOut(*json, answer) : ToC(json.status());
  });
}

terse_status_t terse_group_report(terse_group_t* group, char** json) {
  if (json == nullptr) return NullArgument("json");
  return OnGroup(group, [&](const Engine& engine) { return CopyOut(engine.Report(), json); });
}

terse_status_t terse_config_show(const char* config_yaml, int32_t help, char** text) {
  if (text == nullptr) return NullArgument("text");
  return Guarded([&]() -> terse_status_t {
    if (help != 0) return CopyOut(terse::wire::ConfigHelp(), text);
    const absl::StatusOr<terse::wire::Settings> settings = Load(config_yaml);
    if (!settings.ok()) return ConfigError(settings.status());
    return CopyOut(settings->Show(), text);
  });
}

void terse_string_free(char* string) { std::free(string); }

}  // extern "C"
