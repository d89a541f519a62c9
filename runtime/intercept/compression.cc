// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/compression.h"

#include <cstdio>

#include "runtime/intercept/eligibility.h"
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

Compression::Compression(MPI_Comm comm, const CommunicatorFacts& facts)
    : comm_(comm),
      facts_(facts),
      exchange_(GetJob().api, GetJob().settings.error, GetJob().settings.Hash(),
                {.open = [this](std::string* error) { return Open(error); },
                 .same = [this](uint64_t value) { return Same(value); }}) {}

terse_group_t* Compression::Open(std::string* error) const {
  terse_group_t* group = nullptr;
  const auto handle = static_cast<int64_t>(GetPmpi().Comm_c2f(comm_));
  if (GetJob().api->group_open_fcomm(handle, kAbi, GetJob().settings.yaml.c_str(), &group) == TERSE_OK)
    return group;
  *error = GetJob().api->last_error();
  return nullptr;
}

bool Compression::Same(uint64_t value) {
  const Pmpi& pmpi = GetPmpi();
  if (!has_private_) {
    MPI_Group group;
    pmpi.Comm_group(comm_, &group);
    const int result = pmpi.Comm_create(comm_, group, &private_);
    pmpi.Group_free(&group);
    if (result != MPI_SUCCESS) return false;
    pmpi.Comm_set_errhandler(private_, pmpi.errors_return);
    has_private_ = true;
  }
  // The greatest and the least.
  const uint64_t own[2] = {value, ~value};
  uint64_t most[2] = {};
  if (pmpi.Allreduce(own, most, 2, pmpi.word_type, pmpi.max, private_) != MPI_SUCCESS) return false;
  return most[0] == value && most[1] == ~value;
}

Exchange::Outcome Compression::Before(const PeriodLearner& learner, const Signature& signature,
                                      const AllReduceCall& call) {
  const Vocabulary& vocabulary = GetVocabulary();
  bool eligible = MayCompress(signature, facts_, vocabulary, GetJob().settings.min_elements);
#if !defined(OPEN_MPI)
  // MPICH's mpi_f08 passes descriptors of arrays, not their addresses.
  eligible = eligible && call.binding != Binding::kMpiF08;
#endif
  if (!eligible) return BeforeExact(learner, signature);
  return exchange_.Before(learner,
                          {.signature = signature.Hash(),
                           .eligible = true,
                           .type = vocabulary.types[static_cast<size_t>(signature.type)].name.c_str(),
                           .count = call.count,
                           .send = call.send == MPI_IN_PLACE ? call.recv : call.send,
                           .recv = call.recv});
}

Exchange::Outcome Compression::BeforeExact(const PeriodLearner& learner, const Signature& signature) {
  return exchange_.Before(learner, {.signature = signature.Hash()});
}

void Compression::Close() {
  last_report_ = exchange_.Close();
  if (has_private_) GetPmpi().Comm_free(&private_);
  has_private_ = false;
}

void Compression::Describe(CommunicatorRecord* record) const {
  record->compressed_calls = exchange_.compressed_calls();
  record->group = last_report_.empty() ? exchange_.Report() : last_report_;
  record->error = exchange_.error();
}

}  // namespace terse::intercept
