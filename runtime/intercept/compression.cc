// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/compression.h"

#include <cstdio>
#include <limits>
#include <string>
#include <utility>

#include "runtime/intercept/completion.h"
#include "runtime/intercept/library.h"
#include "runtime/intercept/settings.h"
#include "runtime/intercept/terse_api.h"

namespace terse::intercept {
namespace {

struct Job {
  const TerseApi* api = nullptr;  // null: nothing is compressed, for the reason in settings.error
  Settings settings;
};

// Read when a communicator is first used, said on stderr where something is wrong.
const Job& GetJob() {
  static const Job* const job = [] {
    auto* const made = new Job;
    made->api = LoadTerse(&made->settings.error);
    if (made->api != nullptr) {
      made->settings = ReadSettings(*made->api);
      if (!made->settings.error.empty()) made->api = nullptr;
    }
    if (made->api == nullptr) {
      std::fprintf(stderr, "terse: nothing is compressed: %s\n", made->settings.error.c_str());
    }
    return made;
  }();
  return *job;
}

}  // namespace

const Rules* JobRules() { return GetJob().api == nullptr ? nullptr : &GetJob().settings.rules; }

Compression::Compression(MPI_Comm comm, const CommunicatorFacts& facts)
    : comm_(comm),
      facts_(facts),
      exchange_(GetJob().api, GetJob().settings.error, {GetJob().settings.Hash(), GetJob().settings.drains},
                {.open = [this](std::string* error) { return Open(error); },
                 .same = [this](uint64_t value) { return Same(value); }}) {}

terse_group_t* Compression::Open(std::string* error) const {
  terse_group_t* group = nullptr;
  const auto handle = static_cast<int64_t>(GetPmpi().Comm_c2f(private_));
  if (GetJob().api->group_open_fcomm(handle, kAbi, GetJob().settings.yaml.c_str(), &group) == TERSE_OK)
    return group;
  *error = GetJob().api->last_error();
  return nullptr;
}

bool Compression::Same(uint64_t value) {
  const Pmpi& pmpi = GetPmpi();
  if (!has_private_) {
    if (!MakePrivate(comm_, &private_)) return false;
    has_private_ = true;
  }
  // The greatest and the least.
  const uint64_t own[2] = {value, ~value};
  uint64_t most[2] = {};
  if (pmpi.Allreduce(own, most, 2, pmpi.word_type, pmpi.max, private_) != MPI_SUCCESS) return false;
  return most[0] == value && most[1] == ~value;
}

bool Compression::Eligible(const Signature& signature, const AllReduceCall& call) const {
  // Arrays of mpi_f08's that are not contiguous.
  if (call.send == nullptr || call.recv == nullptr) return false;
  // Where ranks turn out to differ, the thread makes the call by MPI's own function (StartRequest).
  if (call.form != Form::kBlocking && call.count > std::numeric_limits<int>::max()) return false;
  return MayCompress(signature, facts_, GetVocabulary(), GetJob().settings.rules);
}

Exchange::Outcome Compression::Before(const PeriodLearner& learner, const Signature& signature,
                                      const AllReduceCall* call) {
  const Exchange::Place place = Exchange::PlaceOf(learner, signature.Hash());
  Exchange::Call exchanged{.signature = signature.Hash(), .may_wait = signature.form == Form::kBlocking};
  if (call != nullptr && Eligible(signature, *call)) {
    exchanged.eligible = true;
    exchanged.is_double = signature.type_size == sizeof(double);
    exchanged.type = GetVocabulary().types[static_cast<size_t>(signature.type)].name.c_str();
    exchanged.form = signature.form;
    exchanged.name = call->name;
    exchanged.count = call->count;
    exchanged.send = call->send == MPI_IN_PLACE ? call->recv : call->send;
    exchanged.recv = call->recv;
  }
  if (thread_ == nullptr && exchanged.eligible && !exchanged.may_wait &&
      (place.position >= 0 || !exchanged.name.empty())) {
    MakeThread();
  }
  return thread_ == nullptr ? exchange_.Before(place, exchanged) : OnThread(place, exchanged, call);
}

void Compression::MakeThread() {
  thread_ = std::make_unique<ProgressThread>();
  follows_ = exchange_.running();
}

void Compression::Follow(MPI_Request exact, const AllReduceCall& call) {
  if (thread_ == nullptr) MakeThread();
  thread_->Post([exact, tag = call.tag]() mutable {
    CompleteRequest(tag, GetPmpi().Wait(&exact, MPI_STATUS_IGNORE) != MPI_SUCCESS);
  });
}

Exchange::Outcome Compression::OnThread(const Exchange::Place& at, const Exchange::Call& exchanged,
                                        const AllReduceCall* call) {
  const bool followed = follows_;
  follows_ = at.position == 0 || (follows_ && at.position > 0);
  if (follows_ && (period_ == nullptr || *period_ != *at.period)) {
    period_ = std::make_shared<const std::vector<uint64_t>>(*at.period);
  }
  const Exchange::Place place{at.position, period_.get()};
  if (exchanged.eligible && call->form == Form::kBlocking) {
    Exchange::Outcome outcome = Exchange::Outcome::kFailed;
    thread_->Run([&] { outcome = exchange_.Before(place, exchanged); });
    return outcome;
  }
  if (exchanged.eligible && (follows_ || !exchanged.name.empty())) {
    return StartRequest(place, exchanged, *call) ? Exchange::Outcome::kDone : Exchange::Outcome::kFailed;
  }
  // The others pass, once the thread knows of them where it has to: an end, a begin, a gradient that goes
  // exact.
  if (at.position == 0 || (followed && !follows_) || exchanged.eligible) {
    thread_->Post([this, place, period = period_, told = exchanged]() mutable {
      told.may_wait = !told.eligible;
      exchange_.Before(place, told);
    });
  }
  return Exchange::Outcome::kPass;
}

bool Compression::StartRequest(const Exchange::Place& place, const Exchange::Call& exchanged,
                               const AllReduceCall& call) {
  const int tag = call.form == Form::kPersistent ? call.tag : MakeRequest(call.form, call.request);
  if (tag < 0) return false;
  thread_->Post(
      [this, tag, place, period = period_, task = exchanged, name = std::string(call.name), call]() mutable {
        task.may_wait = true;
        task.name = name;
        Exchange::Outcome outcome = exchange_.Before(place, task);
        // The ranks have not agreed: the program has gone on, so the sum is made here, as it was called.
        if (outcome == Exchange::Outcome::kPass &&
            (!has_private_ || GetPmpi().Allreduce(call.send, call.recv, static_cast<int>(call.count),
                                                  call.type, call.op, private_) != MPI_SUCCESS)) {
          outcome = Exchange::Outcome::kFailed;
        }
        const bool failed = outcome == Exchange::Outcome::kFailed;
        if (failed) {
          std::fprintf(stderr, "terse: %s\n", exchange_.error().c_str());
          GetPmpi().Comm_call_errhandler(call.comm, MPI_ERR_OTHER);
        }
        CompleteRequest(tag, failed);
      });
  return true;
}

std::string Compression::error() const {
  std::string error;
  if (thread_ == nullptr) return exchange_.error();
  thread_->Run([&] { error = exchange_.error(); });
  return error;
}

void Compression::Close() {
  thread_.reset();
  last_report_ = exchange_.Close();
  if (has_private_) GetPmpi().Comm_free(&private_);
  has_private_ = false;
}

void Compression::Describe(CommunicatorRecord* record) const {
  const auto describe = [&] {
    record->compressed_calls = exchange_.compressed_calls();
    record->group = last_report_.empty() ? exchange_.Report() : last_report_;
    record->error = exchange_.error();
  };
  // At the end of a process without MPI_Finalize the thread may wait for ranks that are gone.
  if (thread_ == nullptr) {
    describe();
  } else if (!thread_->RunIfIdle(describe)) {
    record->error = "calls were still under way when the process ended";
  }
}

}  // namespace terse::intercept
