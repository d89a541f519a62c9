// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/grpc/grpc_link.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/support/channel_arguments.h"
#include "proto/wire/text_file.h"

namespace terse::controller {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

// Of a call. Plans of ten thousand tensors take a controller a second.
constexpr milliseconds kPatience{10'000};
constexpr milliseconds kFinishWithin{500};
constexpr milliseconds kFirstPause{100};
constexpr milliseconds kLongestPause{5'000};
// Of an attempt to connect, handshakes included: a controller that has just begun, is far or is busy takes a
// while.
constexpr milliseconds kConnectWithin{5'000};
// Nothing is missed: whoever has something to say notifies.
constexpr milliseconds kLook{60'000};
constexpr int kMostMessage = 64 << 20;

bool IsUtf8(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
    const unsigned first = byte(i);
    const size_t more = first < 0x80       ? 0
                        : first >> 5 == 6  ? 1
                        : first >> 4 == 14 ? 2
                        : first >> 3 == 30 ? 3
                                           : 4;
    if (more == 4) return false;
    uint32_t point = more == 0 ? first : first & (0x3fu >> more);
    for (size_t k = 1; k <= more; ++k) {
      if (byte(i + k) >> 6 != 2) return false;
      point = point << 6 | (byte(i + k) & 0x3f);
    }
    constexpr uint32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
    if (point < kLeast[more] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return false;
    i += more + 1;
  }
  return true;
}

// Names are the job's bytes, and messages are UTF-8.
std::string Text(const std::string& bytes) { return IsUtf8(bytes) ? bytes : absl::CHexEscape(bytes); }

std::string NewInstance() {
  std::random_device random;
  std::string instance;
  while (instance.size() < 16) {
    const unsigned bits = random();
    instance.append(reinterpret_cast<const char*>(&bits), sizeof bits);
  }
  return instance;
}

v1::ReportStepRequest RequestOf(const JobReport& report) {
  v1::ReportStepRequest request;
  request.set_step(report.step);
  request.set_version(report.version);
  request.set_since(report.since);
  request.set_step_ms(report.step_ms);
  request.set_measure_ms(report.measure_ms);
  request.set_skipped(report.skipped);
  request.set_why(Text(report.why));
  for (const TensorReport& tensor : report.tensors) {
    v1::TensorState& state = *request.add_tensors();
    state.set_setting(tensor.setting);
    state.set_reason(Text(tensor.reason));
    state.set_path(tensor.path);
    state.set_norm(tensor.norm);
    state.set_residual_norm(tensor.residual_norm);
    state.set_bytes_sent(tensor.bytes_sent);
    state.set_dense_bytes(tensor.dense_bytes);
    state.set_compressed_ms(tensor.compressed_ms);
    state.set_dense_ms(tensor.dense_ms);
    state.set_ready_ms(tensor.ready_ms);
    state.set_wire_ms(tensor.wire_ms);
    state.set_codec_ms(tensor.codec_ms);
    state.mutable_squared_error()->Add(tensor.squared_error.begin(), tensor.squared_error.end());
  }
  return request;
}

Order OrderOf(const v1::Order& order) {
  return {.follows = order.follows(),
          .settings = {order.settings().begin(), order.settings().end()},
          .reasons = {order.reasons().begin(), order.reasons().end()},
          .why = order.outcome().why(),
          .bytes = order.outcome().bytes(),
          .uniform_bytes = order.outcome().uniform_bytes(),
          .error = order.outcome().error(),
          .budget = order.outcome().budget(),
          .lower_bound = order.outcome().lower_bound(),
          .finish_ms = order.outcome().finish_ms(),
          .uniform_finish_ms = order.outcome().uniform_finish_ms(),
          .way = order.outcome().way()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcLink>> GrpcLink::Open(const wire::Config& config) {
  std::string token;
  if (!config.controller.token_file.empty()) {
    absl::StatusOr<std::string> text =
        wire::ReadTextFile("controller.token_file", config.controller.token_file);
    if (!text.ok()) return text.status();
    token = std::string(absl::StripAsciiWhitespace(*text));
    if (token.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("controller.token_file: ", config.controller.token_file, " is empty"));
    }
  }
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (!config.tls.ca.empty()) {
    grpc::SslCredentialsOptions ssl;
    for (const auto& [key, path, out] : {std::tuple("tls.ca", &config.tls.ca, &ssl.pem_root_certs),
                                         std::tuple("tls.cert", &config.tls.cert, &ssl.pem_cert_chain),
                                         std::tuple("tls.key", &config.tls.key, &ssl.pem_private_key)}) {
      if (path->empty()) continue;
      absl::StatusOr<std::string> text = wire::ReadTextFile(key, *path);
      if (!text.ok()) return text.status();
      *out = *std::move(text);
    }
    credentials = grpc::SslCredentials(ssl);
  }
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, static_cast<int>(kFirstPause.count()));
  // For gRPC this is what an attempt may take, whatever its name.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(kConnectWithin.count()));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, static_cast<int>(kLongestPause.count()));
  arguments.SetMaxReceiveMessageSize(kMostMessage);
  return std::unique_ptr<GrpcLink>(new GrpcLink(
      grpc::CreateCustomChannel(config.controller.address, credentials, arguments), std::move(token)));
}

GrpcLink::GrpcLink(std::shared_ptr<grpc::Channel> channel, std::string token)
    : token_(std::move(token)), instance_(NewInstance()), stub_(v1::Controller::NewStub(std::move(channel))) {
  state_.what = "nothing has been reported yet";
  thread_ = std::thread([this] { Talk(); });
}

GrpcLink::~GrpcLink() {
  {
    transport::MutexLock lock(mutex_);
    closing_ = true;
    called_.NotifyAll();
    if (current_ != nullptr) current_->TryCancel();
  }
  thread_.join();
}

void GrpcLink::Post(std::shared_ptr<const JobDescription> job, JobReport report) {
  transport::MutexLock lock(mutex_);
  if (job == nullptr && pending_.has_value()) job = pending_->job;
  pending_ = Message{std::move(job), std::move(report)};
  called_.NotifyAll();
}

std::optional<Order> GrpcLink::Take() {
  transport::MutexLock lock(mutex_);
  return std::exchange(order_, std::nullopt);
}

LinkState GrpcLink::state() const {
  transport::MutexLock lock(mutex_);
  return state_;
}

void GrpcLink::Prepare(grpc::ClientContext* context, milliseconds patience) {
  context->set_deadline(std::chrono::system_clock::now() + patience);
  if (!token_.empty()) context->AddMetadata("authorization", "Bearer " + token_);
}

void GrpcLink::SetCurrent(grpc::ClientContext* context) {
  transport::MutexLock lock(mutex_);
  current_ = context;
  if (context != nullptr && closing_) context->TryCancel();
}

GrpcLink::Outcome GrpcLink::Judge(const grpc::Status& status, const char* doing) {
  transport::MutexLock lock(mutex_);
  if (status.ok()) {
    state_.connected = true;
    return Outcome::kSaid;
  }
  state_.what = absl::StrCat(doing, ": ", status.error_message().substr(0, 200));
  switch (status.error_code()) {
    case grpc::StatusCode::NOT_FOUND:
    case grpc::StatusCode::FAILED_PRECONDITION:
      // The controller does not know this job, or not as it is now.
      return Outcome::kRegister;
    case grpc::StatusCode::INVALID_ARGUMENT:
      return Outcome::kNever;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      // It is there, and has too much to do or no room for this job.
      return Outcome::kLater;
    default:
      state_.losses += state_.connected ? 1 : 0;
      state_.connected = false;
      return Outcome::kLater;
  }
}

GrpcLink::Outcome GrpcLink::Register(const JobDescription& job) {
  v1::RegisterJobRequest request;
  request.set_instance(instance_);
  request.set_name(Text(job.name));
  request.set_host(Text(job.host));
  request.set_process(job.process);
  request.set_world_size(job.world_size);
  request.set_config(Text(job.config));
  for (const policy::TensorInfo& info : job.tensors) {
    v1::TensorInfo& tensor = *request.add_tensors();
    tensor.set_name(Text(info.name));
    tensor.set_dtype(static_cast<uint32_t>(info.dtype));
    tensor.mutable_shape()->Add(info.shape.begin(), info.shape.end());
  }
  grpc::ClientContext context;
  Prepare(&context, kPatience);
  SetCurrent(&context);
  v1::RegisterJobResponse response;
  const grpc::Status status = stub_->RegisterJob(&context, request, &response);
  SetCurrent(nullptr);
  if (status.ok()) job_id_ = response.job_id();
  return Judge(status, "registering");
}

GrpcLink::Outcome GrpcLink::Report(const JobReport& report) {
  v1::ReportStepRequest request = RequestOf(report);
  request.set_job_id(job_id_);
  request.set_instance(instance_);
  grpc::ClientContext context;
  Prepare(&context, kPatience);
  SetCurrent(&context);
  v1::ReportStepResponse response;
  const grpc::Status status = stub_->ReportStep(&context, request, &response);
  SetCurrent(nullptr);
  const Outcome outcome = Judge(status, "reporting");
  if (outcome != Outcome::kSaid) return outcome;
  transport::MutexLock lock(mutex_);
  ++state_.reports;
  state_.what = absl::StrCat("connected as ", job_id_, ", reported step ", report.step);
  if (!response.has_order()) return outcome;
  ++state_.orders;
  order_ = OrderOf(response.order());
  return outcome;
}

void GrpcLink::Finish() {
  v1::FinishJobRequest request;
  request.set_job_id(job_id_);
  request.set_instance(instance_);
  grpc::ClientContext context;
  Prepare(&context, kFinishWithin);
  v1::FinishJobResponse response;
  // A controller that does not hear it sees the job fall silent.
  (void)stub_->FinishJob(&context, request, &response);
}

void GrpcLink::Talk() {
  milliseconds pause = kFirstPause;
  for (;;) {
    Message message;
    {
      transport::MutexLock lock(mutex_);
      while (!closing_ && !pending_.has_value()) called_.WaitUntil(mutex_, Clock::now() + kLook);
      if (closing_) break;
      message = *std::move(pending_);
      pending_.reset();
    }
    Outcome outcome = Outcome::kSaid;
    // Twice: a controller that began anew has to be told first whose report it is.
    for (int attempt = 0; attempt < 2; ++attempt) {
      if (job_id_.empty() || (message.job != nullptr && message.job != registered_)) {
        job_id_.clear();
        if (message.job != nullptr) registered_ = message.job;
        outcome = Register(*registered_);
      }
      if (!job_id_.empty()) outcome = Report(message.report);
      if (outcome != Outcome::kRegister) break;
      job_id_.clear();
    }
    if (outcome == Outcome::kSaid || outcome == Outcome::kNever) {
      pause = kFirstPause;
      continue;
    }
    transport::MutexLock lock(mutex_);
    // A newer report takes its place.
    if (!pending_.has_value()) {
      pending_ = std::move(message);
    } else if (pending_->job == nullptr) {
      pending_->job = std::move(message.job);
    }
    const Clock::time_point end = Clock::now() + pause;
    while (!closing_ && Clock::now() < end) called_.WaitUntil(mutex_, end);
    if (closing_) break;
    pause = std::min(2 * pause, kLongestPause);
  }
  if (!job_id_.empty() && state().connected) Finish();
}

}  // namespace terse::controller
