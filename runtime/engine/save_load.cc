// SPDX-License-Identifier: Apache-2.0
//
// Engine::SaveState and LoadState: what the ranks do one after the other, so that either all of them save or
// load the same, or none does.
#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "proto/wire/checksum.h"
#include "proto/wire/text.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/state.h"
#include "runtime/engine/state_files.h"

namespace terse::engine {
namespace {

constexpr size_t kMostSaves = 64;  // that a rank tells the others of: one, or two after a crash, are there

wire::Bytes BytesOf(absl::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string Numbers(const std::vector<uint64_t>& numbers) { return absl::StrJoin(numbers, " "); }

std::vector<uint64_t> ParseNumbers(absl::string_view text) {
  std::vector<uint64_t> numbers;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    uint64_t number = 0;
    if (absl::SimpleAtoi(word, &number)) numbers.push_back(number);
  }
  return numbers;
}

// Why this rank cannot load the newest save that any rank sees; OK where it could.
absl::Status Missing(const std::string& directory, const std::vector<StateSave>& saves, uint64_t newest,
                     int rank, int size) {
  const auto error = [&](auto... words) {
    return absl::NotFoundError(absl::StrCat(directory, ": ", words...));
  };
  if (newest == 0) return error("it holds no saved state");
  const auto found = std::find_if(saves.begin(), saves.end(),
                                  [newest](const StateSave& save) { return save.number == newest; });
  if (found == saves.end()) return error("other ranks find save-", newest, " in it, this rank does not");
  if (found->world_size == 0) return error("save-", newest, " holds files of no or of several world sizes");
  if (found->world_size == static_cast<uint32_t>(size)) {
    if (found->Has(static_cast<uint32_t>(rank))) return absl::OkStatus();
    return error("save-", newest, " lacks rank-", rank, "-of-", size, ".terse");
  }
  if (found->whole()) return absl::OkStatus();
  return error("save-", newest, " is of ", found->world_size, " ranks, of which it holds ",
               found->ranks.size(), " files; to load it with ", size,
               " ranks each must find them all: put them into one directory "
               "that all ranks share");
}

}  // namespace

absl::StatusOr<std::vector<std::string>> Engine::Share(const absl::StatusOr<std::string>& mine) {
  absl::Status failed;
  absl::StatusOr<std::vector<std::string>> texts = agreement_->Share(mine, &failed);
  if (!texts.ok()) return Note(texts.status());
  if (!failed.ok()) return failed;
  return texts;
}

absl::Status Engine::ShareStatus(const absl::Status& mine) {
  return Share(mine.ok() ? absl::StatusOr<std::string>("") : mine).status();
}

absl::Status Engine::BeginState(Intent intent, std::string_view doing) {
  if (!broken_.ok()) return broken_;
  while (agreement_->pending()) {  // a round that terse_test began
    if (absl::Status status = Settle(doing); !status.ok()) return status;
  }
  const absl::StatusOr<Announcements> all =
      agreement_->Agree(Announce(intent, 0.0), [&] { return Describe(doing); });
  if (!all.ok()) return Note(all.status());
  ApplySettings();
  absl::Status mine;
  if (!outstanding_.empty() || !done_.empty()) {
    mine = absl::FailedPreconditionError("requests are outstanding; wait for them and call terse_step first");
  }
  // A job that never calls terse_step has applied what it exchanged.
  const bool steps = config_.method != wire::Method::kAllreduce || step_ + skipped_ > 0;
  for (const std::unique_ptr<Tensor>& tensor : tensors_) {
    if (steps && tensor->pending.active) {
      mine = absl::FailedPreconditionError(
          absl::StrCat(NameOf(tensor->id), " has been exchanged in this step; call terse_step first"));
    }
  }
  if (absl::Status status = ShareStatus(mine); !status.ok()) return status;
  for (const std::unique_ptr<Tensor>& tensor : tensors_) {
    if (absl::Status status = Note(ResolvePending(tensor.get(), 1.0)); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Engine::SaveState(const std::string& directory) {
  if (absl::Status status = BeginState(Intent::kSaveState, "terse_state_save"); !status.ok()) return status;

  // A number larger than any that any rank sees.
  absl::StatusOr<std::vector<StateSave>> saves = ListSaves(directory);
  if (absl::IsNotFound(saves.status())) saves = std::vector<StateSave>();
  absl::StatusOr<std::vector<std::string>> texts =
      Share(saves.ok() ? absl::StatusOr<std::string>(absl::StrCat(saves->empty() ? 0 : saves->front().number))
                       : saves.status());
  if (!texts.ok()) return texts.status();
  wire::StateHeader header;
  for (const std::string& text : *texts) {
    for (const uint64_t number : ParseNumbers(text)) header.save = std::max(header.save, number);
  }
  ++header.save;
  header.rank = static_cast<uint32_t>(rank());
  header.world_size = static_cast<uint32_t>(size());
  header.step = step_;

  absl::Status status = MakeSave(directory, header.save);
  std::unique_ptr<StateFileWriter> file;
  if (status.ok()) {
    auto created =
        StateFileWriter::Create(StateFilePath(directory, header.save, header.rank, header.world_size));
    status = created.status();
    if (status.ok()) file = *std::move(created);
  }
  if (status.ok()) status = WriteSections(file.get());
  texts = Share(status.ok() ? absl::StatusOr<std::string>(absl::StrCat(absl::Hex(file->hash()))) : status);
  if (!texts.ok()) return texts.status();

  // The same on all ranks, and on no others.
  header.save_id =
      wire::Fnv1a(BytesOf(absl::StrCat(header.save, " ", step_, " ", absl::StrJoin(*texts, " "))));
  if (status = ShareStatus(file->Seal(header)); !status.ok()) return status;
  if (status = ShareStatus(file->Publish()); !status.ok()) return status;
  RemoveOtherSaves(directory, header.save);
  return absl::OkStatus();
}

absl::Status Engine::WriteSections(StateFileWriter* file) {
  wire::StateGroup group;
  group.step = step_;
  group.skipped = skipped_;
  group.global_batch = global_batch_;
  group.plan_version = plan_version_;
  group.tensors = static_cast<uint32_t>(tensors_.size());
  if (freeze_ != nullptr) {
    const VarianceFreeze::State& state = freeze_->state();
    group.frozen = state.frozen;
    group.handing_on = state.handing_on;
    group.warmup_steps = state.warmup_steps;
    group.frozen_at = state.frozen_at;
    group.history = state.history;
  }
  absl::Status status = file->Append(wire::StateSection::kConfig, BytesOf(wire::AgreedText(config_)));
  if (status.ok()) status = file->Append(wire::StateSection::kGroup, wire::EncodeStateGroup(group));
  for (const std::unique_ptr<Tensor>& tensor : tensors_) {
    if (!status.ok()) return status;
    status = file->Append(wire::StateSection::kTensor,
                          SaveTensor(ConfiguredRow(*tensor, size()), rank(), size(), tensor.get()));
  }
  return status;
}

absl::Status Engine::LoadState(const std::string& directory) {
  if (absl::Status status = BeginState(Intent::kLoadState, "terse_state_load"); !status.ok()) return status;
  const absl::StatusOr<uint64_t> save = ChooseSave(directory);
  if (!save.ok()) return save.status();
  absl::StatusOr<LoadedState> state = ReadState(directory, *save);
  const absl::StatusOr<std::vector<std::string>> ids =
      Share(state.ok() ? absl::StatusOr<std::string>(
                             absl::StrCat(absl::Hex(state->save_id), " of step ", state->group.step))
                       : state.status());
  if (!ids.ok()) return ids.status();
  for (size_t r = 1; r < ids->size(); ++r) {
    if ((*ids)[r] == ids->front()) continue;
    return absl::DataLossError(absl::StrCat(
        directory, "/save-", *save, " mixes two saves: the file of rank 0 is of save ", ids->front(),
        ", that of rank ", r, " of save ", (*ids)[r], "; take all files from one"));
  }
  return Note(AdoptState(*std::move(state)));
}

absl::StatusOr<uint64_t> Engine::ChooseSave(const std::string& directory) {
  const absl::StatusOr<std::vector<StateSave>> saves = ListSaves(directory);
  if (!saves.ok()) {
    return Share(saves.status()).status();
  }
  // The newest this rank sees, and then those that it could load.
  std::vector<uint64_t> mine{saves->empty() ? 0 : saves->front().number};
  for (const StateSave& save : *saves) {
    if (mine.size() <= kMostSaves && Missing(directory, *saves, save.number, rank(), size()).ok()) {
      mine.push_back(save.number);
    }
  }
  const absl::StatusOr<std::vector<std::string>> texts = Share(Numbers(mine));
  if (!texts.ok()) return texts.status();
  uint64_t newest = 0;
  std::vector<uint64_t> common(mine.begin() + 1, mine.end());
  for (const std::string& text : *texts) {
    std::vector<uint64_t> theirs = ParseNumbers(text);
    if (theirs.empty()) return Note(absl::DataLossError("a rank told of its saves in no known way"));
    newest = std::max(newest, theirs.front());
    theirs.erase(theirs.begin());
    std::erase_if(common, [&](uint64_t number) {
      return std::find(theirs.begin(), theirs.end(), number) == theirs.end();
    });
  }
  if (!common.empty()) return common.front();
  const absl::Status missing = ShareStatus(Missing(directory, *saves, newest, rank(), size()));
  if (!missing.ok()) return missing;
  return absl::NotFoundError(absl::StrCat(directory, ": no save in it is whole on all ranks"));
}

absl::StatusOr<LoadedState> Engine::ReadState(const std::string& directory, uint64_t save) const {
  const absl::StatusOr<std::vector<StateSave>> saves = ListSaves(directory);
  if (!saves.ok()) return saves.status();
  const auto chosen =
      std::find_if(saves->begin(), saves->end(), [save](const StateSave& s) { return s.number == save; });
  if (chosen == saves->end())
    return absl::NotFoundError(absl::StrCat(directory, ": save-", save, " is gone"));
  const Inheritance from(chosen->world_size, size(), rank(), config_.reduce);

  LoadedState state;
  std::vector<std::unique_ptr<StateFileReader>> files;
  for (const uint32_t source : from.Sources()) {
    auto file = StateFileReader::Open(directory, save, source, from.old_size());
    if (!file.ok()) return file.status();
    wire::StateGroup group;
    if (absl::Status status = ReadGroup(file->get(), &group); !status.ok()) return status;
    const wire::StateHeader& header = (*file)->header();
    if (files.empty()) {
      state.save_id = header.save_id;
      state.group = std::move(group);
    } else if (header.save_id != state.save_id || group != state.group) {
      return (*file)->Named(absl::DataLossError(
          absl::StrCat("it is of save ", absl::Hex(header.save_id), " of step ", header.step, ", and ",
                       files.front()->path(), " of save ", absl::Hex(state.save_id), " of step ",
                       state.group.step, "; take all files from one")));
    }
    files.push_back(*std::move(file));
  }
  for (const std::unique_ptr<Tensor>& now : tensors_) {
    LoadedState::Row row;
    absl::StatusOr<std::unique_ptr<Tensor>> tensor = ReadTensor(*now, from, files, &row.row);
    if (!tensor.ok()) return tensor.status();
    row.tensor = *std::move(tensor);
    state.tensors.push_back(std::move(row));
  }
  for (const std::unique_ptr<StateFileReader>& file : files) {
    if (absl::Status status = file->End(); !status.ok()) return status;
  }
  return state;
}

absl::Status Engine::ReadGroup(StateFileReader* file, wire::StateGroup* group) const {
  absl::StatusOr<wire::Bytes> body = file->Next(wire::StateSection::kConfig);
  if (!body.ok()) return body.status();
  const std::string_view text(reinterpret_cast<const char*>(body->data()), body->size());
  if (absl::Status status = CheckSavedConfig(config_, text); !status.ok()) return file->Named(status);
  body = file->Next(wire::StateSection::kGroup);
  if (!body.ok()) return body.status();
  absl::StatusOr<wire::StateGroup> parsed = wire::ParseStateGroup(*body);
  if (!parsed.ok()) return file->Named(parsed.status());
  if (parsed->tensors != tensors_.size()) {
    return file->Named(absl::InvalidArgumentError(
        absl::StrCat("it holds ", parsed->tensors, " tensors, ", tensors_.size(),
                     " are registered; register the same tensors in the same order before loading")));
  }
  *group = *std::move(parsed);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tensor>> Engine::ReadTensor(
    const Tensor& now, const Inheritance& from, absl::Span<const std::unique_ptr<StateFileReader>> files,
    wire::PlanRow* next) const {
  TensorInheritance inheritance(config_, from, now);
  for (const std::unique_ptr<StateFileReader>& file : files) {
    const absl::StatusOr<wire::Bytes> body = file->Next(wire::StateSection::kTensor);
    if (!body.ok()) return body.status();
    const absl::StatusOr<wire::StateTensor> saved = wire::ParseStateTensor(*body);
    if (!saved.ok()) return file->Named(saved.status());
    absl::Status status = inheritance.CheckTensor(*saved);
    if (status.ok()) status = CheckRow(now, saved->row);
    if (status.ok()) status = inheritance.Add(file->header().rank, *saved);
    if (!status.ok()) return file->Named(status);
    // What a policy chose stays, as long as the configuration says what it said then.
    *next = ConfiguredRow(now, size());
    if (SameExchange(saved->configured, *next)) *next = saved->row;
  }
  absl::StatusOr<std::unique_ptr<Tensor>> tensor = inheritance.Finish();
  if (!tensor.ok()) return files.front()->Named(tensor.status());
  return tensor;
}

absl::Status Engine::AdoptState(LoadedState state) {
  const wire::StateGroup& group = state.group;
  step_ = group.step;
  skipped_ = group.skipped;
  // What the job says of its batch goes before what it said when the state was saved.
  global_batch_ = group.global_batch;
  if (next_global_batch_ == 0) next_global_batch_ = group.global_batch;
  if (freeze_ != nullptr) {
    freeze_->Restore({.frozen = group.frozen,
                      .handing_on = group.handing_on,
                      .warmup_steps = group.warmup_steps,
                      .frozen_at = group.frozen_at,
                      .history = group.history});
  }
  bool saved_plan = true;
  bool configured_plan = true;
  for (LoadedState::Row& row : state.tensors) {
    Tensor* const tensor = row.tensor.get();
    tensors_[tensor->id] = std::move(row.tensor);
    configured_plan &= SameExchange(row.row, ConfiguredRow(*tensor, size()));
    if (!SameExchange(row.row, tensor->row)) {
      saved_plan = false;
      if (absl::Status status = Switch(row.row, tensor); !status.ok()) return status;
    }
    tensor->row.reason = row.row.reason;
    tensor->planned = tensor->row;
    StartTiming(tensor);
  }
  plan_version_ = group.plan_version;
  if (!saved_plan) plan_version_ = configured_plan ? 0 : plan_version_ + 1;
  plan_hash_ = PlanHash();
  return absl::OkStatus();
}

}  // namespace terse::engine
