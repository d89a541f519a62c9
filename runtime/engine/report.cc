// SPDX-License-Identifier: Apache-2.0
//
// Engine::Report: what the group did, as JSON. Keys are described in docs/report.md.
#include <nlohmann/json.hpp>

#include "runtime/engine/engine.h"

namespace terse::engine {

std::string Engine::Report() const {
  using Json = nlohmann::ordered_json;
  const auto counters = [](const TensorStats& stats) {
    return Json{{"calls", stats.calls},           {"nonfinite_calls", stats.nonfinite_calls},
                {"bytes_sent", stats.bytes_sent}, {"dense_bytes", stats.dense_bytes},
                {"encode_ms", stats.encode_ms},   {"exchange_ms", stats.exchange_ms},
                {"decode_ms", stats.decode_ms}};
  };
  TensorStats total;
  TensorStats compressed;
  const auto add = [](TensorStats* to, const TensorStats& stats) {
    to->calls += stats.calls;
    to->nonfinite_calls += stats.nonfinite_calls;
    to->bytes_sent += stats.bytes_sent;
    to->dense_bytes += stats.dense_bytes;
    to->encode_ms += stats.encode_ms;
    to->exchange_ms += stats.exchange_ms;
    to->decode_ms += stats.decode_ms;
  };
  Json tensors = Json::array();
  for (const std::unique_ptr<Tensor>& tensor : tensors_) {
    add(&total, tensor->stats);
    if (tensor->row.codec != wire::Codec::kNone) add(&compressed, tensor->stats);
    Json row{{"name", tensor->name},
             {"elements", tensor->job_elements},
             {"dtype", wire::Name(tensor->dtype)},
             {"codec", wire::Name(tensor->row.codec)},
             {"exchange", wire::Name(tensor->row.exchange)},
             {"reason", tensor->row.reason}};
    row.update(counters(tensor->stats));
    if (tensor->timing != nullptr) {
      const PathTiming& timing = *tensor->timing;
      const policy::PathDecision* const last = timing.choice.last();
      row["timing"] = {{"compressed_ms", last == nullptr ? Json() : Json(last->compressed_ms)},
                       {"dense_ms", last == nullptr ? Json() : Json(last->dense_ms)},
                       {"dense_part", last == nullptr ? Json() : Json(last->dense_part)},
                       {"decision", last == nullptr ? Json() : Json(policy::Name(last->path))},
                       {"on_trial", timing.choice.trying()},
                       {"trials", timing.choice.trials()},
                       {"probe_ms", timing.probe_ms}};
    }
    if (const BuildUp& build_up = tensor->stats.build_up; build_up.exchanges > 0) {
      row["build_up"] = {{"exchanges", build_up.exchanges},
                         {"selected", build_up.selected},
                         {"distinct", build_up.distinct},
                         {"accepted", build_up.accepted}};
      if (tensor->row.exchange == wire::Exchange::kSparseReduce)
        row["build_up"]["busiest"] = build_up.busiest;
    }
    tensors.push_back(std::move(row));
  }
  Json report{{"version", TERSE_VERSION_STRING},
              {"method", wire::Name(config_.method)},
              {"compressor", wire::Name(config_.compressor)},
              {"transport", config_.transport.name},
              {"rank", rank()},
              {"world_size", size()},
              {"generation", group_->generation()},
              {"steps", step_},
              {"skipped_steps", skipped_},
              {"wire_bytes", group_->bytes_sent()}};
  if (freeze_ != nullptr) {
    const VarianceFreeze::State& state = freeze_->state();
    report["variance"] = {{"frozen", state.frozen},
                          {"frozen_at_step", state.frozen ? Json(state.frozen_at) : Json()},
                          {"warmup_steps", state.warmup_steps}};
  }
  Json events = Json::array();
  for (const PathEvent& event : path_events_) {
    events.push_back({{"step", event.step},
                      {"exchange", event.exchange},
                      {"tensor", tensors_[event.tensor]->name},
                      {"decision", policy::Name(event.decision.path)},
                      {"changed", event.decision.changed},
                      {"cause", policy::Words(event.decision.cause)},
                      {"reason", policy::Reason(event.decision)},
                      {"compressed_ms", event.decision.compressed_ms},
                      {"dense_ms", event.decision.dense_ms},
                      {"dense_part", event.decision.dense_part}});
  }
  report["dense_when_faster"] = {
      {"on", config_.dense_when_faster}, {"decisions", path_decisions_}, {"events", std::move(events)}};
  if (adaptation_ != nullptr) {
    Json decided = Json::array();
    for (const Adaptation::Event& event : adaptation_->events()) {
      Json changes = Json::array();
      for (const Adaptation::Change& change : event.changes) {
        changes.push_back({{"tensor", change.tensor}, {"from", change.from}, {"to", change.to}});
      }
      decided.push_back({{"step", event.step},
                         {"changed", event.changed},
                         {"why", event.why},
                         {"bytes", event.bytes},
                         {"uniform_bytes", event.uniform_bytes},
                         {"error", event.error},
                         {"budget", event.budget},
                         {"lower_bound", event.lower_bound},
                         {"way", event.way},
                         {"changes", std::move(changes)}});
      if (config_.policy.objective == wire::Objective::kTime) {
        decided.back()["finish_ms"] = event.finish_ms;
        decided.back()["uniform_finish_ms"] = event.uniform_finish_ms;
      }
    }
    report["policy"] = {{"decisions", adaptation_->decisions()},
                        {"plans", adaptation_->plans()},
                        {"measure_ms", adaptation_->measure_ms()},
                        {"decide_ms", adaptation_->decide_ms()},
                        {"events", std::move(decided)}};
    if (const controller::LinkState* const link = adaptation_->link(); link != nullptr) {
      report["controller"] = {{"address", config_.controller.address},
                              {"connected", link->connected},
                              {"state", link->what},
                              {"reports", link->reports},
                              {"orders", link->orders},
                              {"losses", link->losses}};
    }
  }
  report.update(counters(total));
  report["compressed_tensors"] = counters(compressed);
  report["tensors"] = std::move(tensors);
  // Names are the job's bytes, perhaps no UTF-8: replaced rather than thrown about.
  return report.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace terse::engine
