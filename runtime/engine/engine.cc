// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/engine.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compressors/registry.h"
#include "proto/wire/checksum.h"
#include "proto/wire/text.h"
#include "runtime/controller/policy/static_policy.h"

namespace terse::engine {
namespace {

constexpr size_t kMostTensors = 65536;

uint64_t HashOf(std::string_view text, uint64_t hash) {
  return wire::Fnv1a(absl::MakeSpan(reinterpret_cast<const std::byte*>(text.data()), text.size()), hash);
}

// Nothing for a tensor without a mask.
std::string MaskText(const Tensor& tensor) {
  const Mask& mask = tensor.next_mask;
  if (mask.all()) return "";
  return absl::StrCat(" with mask ", absl::Hex(mask.hash()), " (", mask.kept(), " elements take part)");
}

std::string TableLine(const Tensor& tensor) {
  return absl::StrCat("tensor ", tensor.id, ": '", tensor.name, "' ", wire::View(wire::Name(tensor.dtype)),
                      " [", absl::StrJoin(tensor.shape, ", "), "]", MaskText(tensor),
                      tensor.steps_outside == 0
                          ? ""
                          : absl::StrCat(" after ", tensor.steps_outside, " steps outside of the group"));
}

// MPI cannot withdraw a send whose receiver is gone: it may read its buffer as long as the job uses MPI. So
// the buffers of a broken group stay until the process ends.
void KeepUntilExit(std::unique_ptr<Agreement> agreement, std::unique_ptr<BatchRunner> runner) {
  static std::mutex mutex;
  static auto& kept = *new std::vector<std::pair<std::unique_ptr<Agreement>, std::unique_ptr<BatchRunner>>>;
  const std::lock_guard<std::mutex> lock(mutex);
  kept.emplace_back(std::move(agreement), std::move(runner));
}

}  // namespace

Engine::Engine(const wire::Config& config, std::unique_ptr<transport::Group> group, const TimeSource& time)
    : config_(config),
      group_(std::move(group)),
      patience_(std::chrono::seconds(config.transport.timeout_s)),
      agreement_(std::make_unique<Agreement>(group_.get(), patience_)),
      runner_(std::make_unique<BatchRunner>(config_, group_.get(), patience_, time)),
      table_hash_(HashOf(wire::AgreedText(config), HashOf("terse 1", 0xcbf29ce484222325u))) {
  if (config_.method == wire::Method::kOneBitAdam) freeze_ = std::make_unique<VarianceFreeze>(config_.adam);
  if (Adaptation::Wanted(config_, group_->size()))
    adaptation_ = std::make_unique<Adaptation>(config_, group_.get());
}

Engine::~Engine() {
  // A trace of what went wrong is worth as much; where it cannot be written nobody is left to be told.
  if (trace_ != nullptr) (void)trace_->Write();
  runner_->SetTrace(nullptr);
  agreement_->SetTrace(nullptr);
  runner_->SetWorkers(nullptr);
  if (broken_.ok()) return;
  agreement_->Abandon();
  KeepUntilExit(std::move(agreement_), std::move(runner_));
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Open(const wire::Config& config,
                                                     std::unique_ptr<transport::Group> group,
                                                     const TimeSource& time,
                                                     const Adaptation::OpenLink& open_link) {
  std::unique_ptr<Engine> engine(new Engine(config, std::move(group), time));
  const absl::StatusOr<Announcements> all = engine->agreement_->Agree(
      engine->Announce(Intent::kConfigure, 0.0), [&] { return wire::AgreedText(config); });
  if (!all.ok()) return engine->Note(all.status());
  if (engine->adaptation_ != nullptr) {
    if (absl::Status status = engine->ShareStatus(engine->adaptation_->Open(open_link)); !status.ok())
      return status;
  }
  if (config.threads > 1) {
    engine->workers_ = std::make_unique<WorkerPool>(static_cast<size_t>(config.threads));
    engine->runner_->SetWorkers(engine->workers_.get());
  }
  if (!config.trace.empty()) {
    absl::StatusOr<std::unique_ptr<Trace>> trace = Trace::Open(config.trace, engine->rank());
    if (!trace.ok()) return trace.status();
    engine->trace_ = *std::move(trace);
    engine->runner_->SetTrace(engine->trace_.get());
    engine->agreement_->SetTrace(engine->trace_.get());
  }
  return engine;
}

absl::StatusOr<uint32_t> Engine::Register(std::string_view name, wire::DType dtype,
                                          absl::Span<const int64_t> shape) {
  if (!broken_.ok()) return broken_;
  if (name.empty() || name.size() > 1024 || name.find('\n') != std::string_view::npos) {
    return absl::InvalidArgumentError("a tensor's name is one line of 1 to 1024 bytes");
  }
  if (by_name_.contains(name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", wire::View(name), "' is registered already; names are unique"));
  }
  if (tensors_.size() == kMostTensors) {
    return absl::InvalidArgumentError(absl::StrCat("more than ", kMostTensors, " tensors in one group"));
  }
  auto tensor = std::make_unique<Tensor>();
  tensor->id = static_cast<uint32_t>(tensors_.size());
  tensor->name = std::string(name);
  tensor->dtype = dtype;
  tensor->shape.assign(shape.begin(), shape.end());
  tensor->elements = 1;
  for (const int64_t extent : shape) {
    // Offsets in bytes, of fp64, must fit a signed 64-bit number.
    constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / 16;
    if (extent < 0 || (extent > 0 && tensor->elements > kMost / static_cast<uint64_t>(extent))) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", wire::View(name), "': impossible shape [",
                                                     absl::StrJoin(shape, ", "), "]"));
    }
    tensor->elements *= static_cast<size_t>(extent);
  }
  tensor->job_elements = tensor->elements;
  const wire::PlanRow row = ConfiguredRow(*tensor, size());
  if (absl::Status status = CheckRow(*tensor, row); !status.ok()) return status;
  tensor->one_rank = size() == 1 && ConfiguredRow(*tensor, 2).codec != wire::Codec::kNone;
  tensor->world_size = size();
  tensor->planned = row;
  tensor->SetRow(row);
  tensor->method = MakeMethod(*tensor);
  StartTiming(tensor.get());
  table_hash_ = HashOf(TableLine(*tensor), table_hash_);
  by_name_.emplace(tensor->name, tensor->id);
  tensors_.push_back(std::move(tensor));
  return tensors_.back()->id;
}

wire::PlanRow Engine::ConfiguredRow(const Tensor& tensor, int world_size) const {
  return policy::StaticRow(config_, world_size,
                           {tensor.id, tensor.name, tensor.dtype, tensor.job_elements, tensor.shape});
}

std::unique_ptr<TensorMethod> Engine::MakeMethod(const Tensor& tensor) const {
  auto method = MakeTensorMethod(config_, tensor.Facts());
  if (freeze_ != nullptr && freeze_->frozen()) method->Freeze(freeze_->state().warmup_steps);
  return method;
}

std::string Engine::NameOf(uint32_t tensor) const {
  return absl::StrCat("'", tensors_[tensor]->name, "' (tensor ", tensor, ")");
}

absl::Status Engine::CheckCall(const Call& call) const {
  if (call.tensor >= tensors_.size()) {
    return absl::InvalidArgumentError(absl::StrCat("there is no tensor ", static_cast<int32_t>(call.tensor),
                                                   "; ", tensors_.size(), " are registered"));
  }
  const Tensor& tensor = *tensors_[call.tensor];
  if (call.recv == nullptr && tensor.elements > 0) {
    return absl::InvalidArgumentError(absl::StrCat(NameOf(call.tensor), ": recv is NULL"));
  }
  if (call.parameter == nullptr && tensor.elements > 0 && tensor.method->needs_parameter()) {
    return absl::InvalidArgumentError(absl::StrCat(
        NameOf(call.tensor),
        ": dgc.decay: local adds weight decay to the gradient and needs the parameter for it, which only "
        "terse_optimizer_step is given; call that, or set dgc.weight_decay: 0 and decay in your optimizer"));
  }
  if (outstanding_.contains(call.tensor) || done_.contains(call.tensor)) {
    return absl::FailedPreconditionError(
        absl::StrCat(NameOf(call.tensor), " is being exchanged already; wait for its request first"));
  }
  if (tensor.pending.active && config_.method != wire::Method::kAllreduce) {
    return absl::FailedPreconditionError(absl::StrCat(
        NameOf(call.tensor), " was exchanged in step ", step_, " already; method ",
        wire::View(wire::Name(config_.method)), " needs terse_step between two exchanges of a tensor"));
  }
  return absl::OkStatus();
}

absl::Status Engine::CheckBuffers(absl::Span<const Call> calls) const {
  struct Range {
    uintptr_t begin, end;
    bool written;
    uint32_t tensor;
  };
  std::vector<Range> ranges;
  const auto add = [&](const Call& call) {
    const Tensor& tensor = *tensors_[call.tensor];
    const auto recv = reinterpret_cast<uintptr_t>(call.recv);
    const auto send = reinterpret_cast<uintptr_t>(call.send);
    const size_t size = wire::DTypeSize(tensor.dtype) * tensor.job_elements;
    ranges.push_back(
        {recv, recv + (call.float_result ? sizeof(float) * tensor.job_elements : size), true, call.tensor});
    if (call.send != nullptr && send != recv) ranges.push_back({send, send + size, false, call.tensor});
  };
  for (const Call& call : calls) add(call);
  for (const auto& [id, call] : outstanding_) add(call);
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  // Sorted by begin: the furthest end so far, of written and of all ranges, tells every overlap.
  const Range* written = nullptr;
  const Range* any = nullptr;
  for (const Range& range : ranges) {
    const Range* const other = range.written ? any : written;
    if (other != nullptr && other->end > range.begin) {
      return absl::InvalidArgumentError(absl::StrCat("the buffers of ", NameOf(other->tensor), " and ",
                                                     NameOf(range.tensor),
                                                     " overlap; only send == recv of one tensor is allowed"));
    }
    if (range.written && (written == nullptr || range.end > written->end)) written = &range;
    if (any == nullptr || range.end > any->end) any = &range;
  }
  return absl::OkStatus();
}

absl::Status Engine::Note(absl::Status status) {
  // ABORTED is a difference that was found before anything was exchanged.
  if (!status.ok() && status.code() != absl::StatusCode::kAborted && broken_.ok()) broken_ = status;
  return status;
}

Announcement Engine::Announce(Intent intent, double value) const {
  Announcement mine;
  mine.intent = intent;
  mine.step = step_;
  mine.tensor_count = static_cast<uint32_t>(tensors_.size());
  mine.table_hash =
      HashOf(absl::StrCat(masks_hash_, " ", outside_hash_, " ", next_global_batch_, " ", next_exact_),
             table_hash_ ^ plan_hash_);
  mine.value = std::bit_cast<uint64_t>(value);
  return mine;
}

std::string Engine::PlanText() const {
  std::string text = absl::StrCat("plan: version ", plan_version_, "\n");
  for (const std::unique_ptr<Tensor>& tensor : tensors_) {
    absl::StrAppend(&text, "plan of ", NameOf(tensor->id), ": ", wire::RowText(tensor->row), "\n");
  }
  return text;
}

uint64_t Engine::PlanHash() const { return plan_version_ == 0 ? 0 : HashOf(PlanText(), table_hash_); }

std::string Engine::Describe(std::string_view doing) const {
  std::string text;
  for (const std::unique_ptr<Tensor>& tensor : tensors_) absl::StrAppend(&text, TableLine(*tensor), "\n");
  text += PlanText();
  absl::StrAppend(&text, "step: ", step_, "\nloss scale: ", loss_scale_,
                  "\nglobal batch: ", next_global_batch_ == 0 ? "not set" : absl::StrCat(next_global_batch_),
                  "\nexchanges: ", next_exact_ ? "exact" : "as planned", "\ncall: ", wire::View(doing));
  for (const auto& [id, call] : outstanding_) absl::StrAppend(&text, "\nexchange of ", NameOf(id));
  return text;
}

absl::Status Engine::Allreduce(absl::Span<const Call> calls) {
  if (!broken_.ok()) return broken_;
  std::vector<uint32_t> mine;
  absl::Status status;
  for (const Call& call : calls) {
    if (outstanding_.contains(call.tensor) &&
        std::find(mine.begin(), mine.end(), call.tensor) != mine.end()) {
      status = absl::InvalidArgumentError(absl::StrCat(NameOf(call.tensor), " is in the batch twice"));
      break;
    }
    if (status = CheckCall(call); !status.ok()) break;
    if (tensors_[call.tensor]->elements == 0) continue;
    outstanding_.emplace(call.tensor, call);
    mine.push_back(call.tensor);
  }
  if (status.ok()) status = CheckBuffers({});
  const auto unfinished = [&] {
    return std::any_of(mine.begin(), mine.end(), [&](uint32_t id) { return outstanding_.contains(id); });
  };
  while (status.ok() && unfinished()) status = Settle("terse_allreduce");
  for (const uint32_t id : mine) {
    outstanding_.erase(id);
    if (const auto done = done_.extract(id); !done.empty() && status.ok()) status = done.mapped();
  }
  return status;
}

absl::Status Engine::Submit(const Call& call) {
  if (!broken_.ok()) return broken_;
  if (absl::Status status = CheckCall(call); !status.ok()) return status;
  if (absl::Status status = CheckBuffers({&call, 1}); !status.ok()) return status;
  if (tensors_[call.tensor]->elements == 0) {
    done_[call.tensor] = absl::OkStatus();
  } else {
    outstanding_.emplace(call.tensor, call);
  }
  return absl::OkStatus();
}

absl::Status Engine::Wait(uint32_t tensor) {
  absl::Status status = broken_;
  while (status.ok() && outstanding_.contains(tensor))
    status = Settle(absl::StrCat("terse_wait for ", NameOf(tensor)));
  outstanding_.erase(tensor);
  if (const auto done = done_.extract(tensor); !done.empty()) return done.mapped();
  return status;
}

absl::StatusOr<bool> Engine::Test(uint32_t tensor) {
  absl::Status status = broken_;
  if (status.ok() && outstanding_.contains(tensor)) {
    if (!agreement_->pending()) status = Note(StartSettling(/*testing=*/true));
    if (status.ok()) {
      const absl::StatusOr<bool> ready = agreement_->Poll();
      if (ready.ok() && !*ready) return false;
      status =
          ready.ok() ? FinishSettling(absl::StrCat("terse_test of ", NameOf(tensor))) : Note(ready.status());
    }
    if (status.ok() && outstanding_.contains(tensor)) return false;
  }
  outstanding_.erase(tensor);
  if (const auto done = done_.extract(tensor); !done.empty()) status = done.mapped();
  if (!status.ok()) return status;
  return true;
}

absl::Status Engine::StartSettling(bool testing) {
  Announcement mine = Announce(Intent::kSettle, loss_scale_);
  mine.testing = testing;
  mine.times = TimesToTell();
  mine.submitted.assign((tensors_.size() + 7) / 8, std::byte{0});
  for (const auto& [id, call] : outstanding_) mine.submitted[id / 8] |= std::byte{1} << (id % 8);
  return agreement_->Start(std::move(mine));
}

absl::Status Engine::Settle(std::string_view doing) {
  // A round that terse_test began is joined first; the caller comes again if it was not enough.
  if (!agreement_->pending()) {
    if (absl::Status status = Note(StartSettling(/*testing=*/false)); !status.ok()) return status;
  }
  return FinishSettling(doing);
}

absl::Status Engine::FinishSettling(std::string_view doing) {
  const auto describe = [&] { return Describe(doing); };
  const absl::StatusOr<Announcements> all = agreement_->Finish(describe);
  if (!all.ok()) return Note(all.status());
  if (absl::Status status = Note(HearTimes(*all)); !status.ok()) return status;
  std::vector<std::byte> common = all->front().submitted;
  bool testing = false;
  for (const Announcement& a : *all) {
    testing |= a.testing;
    if (a.submitted.size() != common.size()) {
      return Note(absl::DataLossError("an announcement whose set of tensors has another size"));
    }
    for (size_t i = 0; i < common.size(); ++i) common[i] &= a.submitted[i];
  }
  ApplySettings();
  std::vector<Call> calls;
  for (const auto& [id, call] : outstanding_) {
    if ((common[id / 8] >> (id % 8) & std::byte{1}) != std::byte{0}) calls.push_back(call);
  }
  if (!calls.empty()) return RunSettled(calls);
  // Nothing in common. Where every rank waits, it would wait for ever.
  return testing ? absl::OkStatus() : Note(agreement_->NameDifference(describe));
}

absl::Status Engine::RunSettled(absl::Span<const Call> calls) {
  std::vector<Tensor*> tensors;
  std::vector<Tensor*> again;
  for (const Call& call : calls) {
    tensors.push_back(tensors_[call.tensor].get());
    outstanding_.erase(call.tensor);
    // Without terse_step between two exchanges of a tensor the second begins its next step.
    if (tensors.back()->pending.active) again.push_back(tensors.back());
  }
  absl::Status status = Note(TakePaths(again));
  for (size_t i = 0; exact_ && status.ok() && i < tensors.size(); ++i) {
    // What an owner kept of its shard drains with the rest.
    if (tensors[i]->server_residual.empty()) continue;
    status = Note(ResolvePending(tensors[i], 1.0));
    if (status.ok()) FoldServerError(tensors[i]);
  }
  if (status.ok()) {
    const BatchContext context = {.step = step_,
                                  .plan_version = plan_version_,
                                  .loss_scale = loss_scale_,
                                  .exact = exact_,
                                  .adaptation = adaptation_.get(),
                                  .table = tensors_};
    if (adaptation_ != nullptr) adaptation_->BeginBatch(tensors);
    status = Note(runner_->Run(context, calls, tensors));
    if (adaptation_ != nullptr) adaptation_->EndBatch();
  }
  if (status.ok()) CountExchanges(tensors);
  for (const Call& call : calls) done_[call.tensor] = status;
  return status;
}

absl::Status Engine::SettleAll(std::string_view doing) {
  while (!outstanding_.empty()) {
    if (absl::Status status = Settle(doing); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Engine::Step(double applied) {
  if (!broken_.ok()) return broken_;
  if (!(applied >= 0.0 && applied <= 1.0)) {
    return absl::InvalidArgumentError(absl::StrCat("applied = ", applied, " is not between 0 and 1"));
  }
  const std::string doing = absl::StrCat("terse_step(applied = ", applied, ")");
  if (absl::Status status = SettleAll(doing); !status.ok()) return status;
  Announcement mine = Announce(Intent::kStep, applied);
  const bool warms_up = freeze_ != nullptr && !freeze_->frozen();
  const double norm = warms_up ? VarianceNorm() : 0.0;
  mine.freeze = warms_up && freeze_->Settled(norm);
  mine.times = TimesToTell();
  const absl::StatusOr<Announcements> all =
      agreement_->Agree(std::move(mine), [&] { return Describe(doing); });
  if (!all.ok()) return Note(all.status());
  if (absl::Status status = Note(HearTimes(*all)); !status.ok()) return status;
  const ScopedWorkers scope(workers_.get());
  std::vector<Tensor*> tensors;
  for (const std::unique_ptr<Tensor>& tensor : tensors_) {
    tensors.push_back(tensor.get());
    if (absl::Status status = Note(ResolvePending(tensor.get(), applied)); !status.ok()) return status;
  }
  ++(applied > 0.0 ? step_ : skipped_);
  // Rank 0 decides, so that all ranks freeze after the same step even where a transport's sums, against its
  // contract, differ in a last bit between ranks.
  if (applied > 0.0 && warms_up && freeze_->Advance(norm, all->front().freeze, step_)) {
    for (const std::unique_ptr<Tensor>& tensor : tensors_) {
      tensor->method->Freeze(freeze_->state().warmup_steps);
    }
  }
  ApplySettings();
  if (absl::Status status = Note(TakePaths(tensors)); !status.ok()) return status;
  if (adaptation_ == nullptr) return absl::OkStatus();
  absl::Status status;
  if (applied > 0.0 && adaptation_->Due(step_)) status = Adapt();
  adaptation_->EndStep();
  return status;
}

absl::StatusOr<bool> Engine::OptimizerStep(absl::Span<const Call> gradients,
                                           absl::Span<float* const> parameters, double learning_rate) {
  if (!broken_.ok()) return broken_;
  if (!std::isfinite(learning_rate)) return absl::InvalidArgumentError("the learning rate is not finite");
  if (config_.method == wire::Method::kDgc && config_.dgc.job_momentum.has_value()) {
    return absl::InvalidArgumentError(
        "dgc.job_momentum says that the job's own optimizer takes the step, with its momentum; "
        "terse_optimizer_step has none: leave dgc.job_momentum out, or call terse_allreduce");
  }
  std::vector<Call> calls(gradients.begin(), gradients.end());
  for (size_t i = 0; i < calls.size(); ++i) {
    if (calls[i].tensor >= tensors_.size()) return CheckCall(calls[i]);
    Tensor& tensor = *tensors_[calls[i].tensor];
    if (parameters[i] == nullptr && tensor.job_elements > 0) {
      return absl::InvalidArgumentError(absl::StrCat(NameOf(tensor.id), ": its parameter is NULL"));
    }
    calls[i].recv = tensor.result.Get(tensor.job_elements).data();
    calls[i].float_result = true;
    calls[i].parameter = parameters[i];
  }
  if (absl::Status status = Allreduce(calls); !status.ok()) return status;
  bool finite = true;
  for (const Call& call : calls) {
    finite &= tensors_[call.tensor]->elements == 0 || tensors_[call.tensor]->last_finite;
  }
  for (size_t i = 0; finite && i < calls.size(); ++i) {
    Tensor& tensor = *tensors_[calls[i].tensor];
    if (tensor.job_elements == 0) continue;
    if (tensor.update == nullptr) tensor.update = MakeParameterUpdate(config_, tensor.job_elements);
    tensor.update->Apply(tensor.result.Get(tensor.job_elements), learning_rate,
                         {parameters[i], tensor.job_elements});
  }
  if (absl::Status status = Step(finite ? 1.0 : 0.0); !status.ok()) return status;
  return finite;
}

absl::Status Engine::Close() {
  std::vector<std::string> dropped;
  for (const auto& [id, call] : outstanding_) dropped.push_back(NameOf(id));
  for (const auto& [id, status] : done_) dropped.push_back(NameOf(id));
  outstanding_.clear();
  done_.clear();
  if (!broken_.ok()) return absl::OkStatus();
  if (!agreement_->pending()) {
    const absl::StatusOr<Announcements> all =
        agreement_->Agree(Announce(Intent::kClose, 0.0), [&] { return Describe("terse_group_close"); });
    if (!all.ok()) return Note(all.status());
  }
  if (!dropped.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("requests that had not been waited for were dropped: ", absl::StrJoin(dropped, ", ")));
  }
  return absl::OkStatus();
}

}  // namespace terse::engine
