// SPDX-License-Identifier: Apache-2.0
//
// One tensor on several simulated ranks: calls each rank's method in the order of
// compressors/methods/method.h.
#ifndef TERSE_TESTS_METHODS_SIMULATION_H_
#define TERSE_TESTS_METHODS_SIMULATION_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "compressors/methods/method.h"
#include "compressors/methods/variance_freeze.h"
#include "tests/methods/codecs.h"

namespace terse {

class SimulatedRanks {
 public:
  SimulatedRanks(const wire::Config& config, const TensorFacts& tensor, size_t world_size)
      : elements_(tensor.elements), freeze_(config.adam) {
    TensorFacts facts = tensor;
    facts.world_size = static_cast<int>(world_size);
    for (size_t rank = 0; rank < world_size; ++rank) {
      methods_.push_back(MakeTensorMethod(config, facts));
    }
  }

  // The second compression of a scatter-reduce-all-gather: `world_size` chunks, each 1 bit an element with
  // a scale and a server error of its own.
  void UseServer(const OneBitRule& rule = {}) {
    server_rule_ = rule;
    server_error_.assign(elements_, 0.0f);
  }

  // An exact mean, added in rank order.
  void ExchangeDense(const std::vector<Vector>& gradients) { Exchange(gradients, nullptr); }
  void ExchangeCompressed(const std::vector<Vector>& gradients, const TestCodec& codec) {
    Exchange(gradients, &codec);
  }

  // Ends the step, as terse_step(applied).
  void Step(double applied) {
    const double norm = methods_[0]->VarianceNorm();
    const bool settled = freeze_.Settled(norm);
    for (size_t rank = 0; rank < methods_.size(); ++rank) {
      TensorMethod& method = *methods_[rank];
      const auto fraction = static_cast<float>(method.ReturnFraction(applied));
      const absl::Span<float> residual = method.residual();
      if (fraction != 0 && !payloads.empty()) {
        for (size_t i = 0; i < residual.size(); ++i) residual[i] += fraction * payloads[rank].decoded[i];
      }
      method.Resolve(applied);
    }
    if (applied <= 0) server_error_ = old_server_error_;
    if (applied > 0 && freeze_.Advance(norm, settled, ++steps_)) {
      for (auto& method : methods_) method->Freeze(freeze_.state().warmup_steps);
    }
  }

  // As a change of the global batch: the owners' errors go where the engine puts them.
  void Unfreeze() {
    const size_t chunk = elements_ / methods_.size();
    for (size_t i = 0; i < server_error_.size(); ++i) {
      const absl::Span<float> residual = methods_[i / chunk]->residual();
      if (!residual.empty()) residual[i] += static_cast<float>(methods_.size()) * server_error_[i];
      server_error_[i] = 0;
    }
    for (auto& method : methods_) method->Unfreeze();
    freeze_.Restart();
  }

  // Goes the way that the method wants.
  void Exchange(const std::vector<Vector>& gradients, const TestCodec& codec) {
    Exchange(gradients, methods_[0]->WantsDense(steps_) ? nullptr : &codec);
  }

  // The state called `name` of one rank, zeros while it is not there; empty when the method has none.
  Vector State(size_t rank, std::string_view name) {
    Vector found;
    methods_[rank]->VisitState([&](std::string_view visited, wire::MemoryRole, FloatVector* values) {
      if (visited != name) return;
      found.assign(values->begin(), values->end());
      found.resize(elements_);
    });
    return found;
  }
  std::vector<std::string> StateNames(size_t rank) {
    std::vector<std::string> names;
    methods_[rank]->VisitState([&](std::string_view name, wire::MemoryRole, FloatVector* values) {
      if (!values->empty()) names.emplace_back(name);
    });
    return names;
  }
  // The mean over ranks of the state called `name`, element by element.
  std::vector<double> MeanState(std::string_view name) {
    std::vector<double> mean(elements_);
    for (size_t rank = 0; rank < methods_.size(); ++rank) {
      const Vector state = State(rank, name);
      for (size_t i = 0; i < state.size(); ++i) mean[i] += state[i] / static_cast<double>(methods_.size());
    }
    return mean;
  }

  TensorMethod& method(size_t rank) { return *methods_[rank]; }
  VarianceFreeze& freeze() { return freeze_; }

  // Everything that a saved job would hold, between Step and Exchange.
  void CopyStateFrom(SimulatedRanks& from) {
    for (size_t rank = 0; rank < methods_.size(); ++rank) {
      std::map<std::string, FloatVector, std::less<>> vectors;
      std::map<std::string, uint64_t, std::less<>> counters;
      from.method(rank).VisitState([&](std::string_view name, wire::MemoryRole, FloatVector* values) {
        vectors[std::string(name)] = *values;
      });
      from.method(rank).VisitCounters(
          [&](std::string_view name, uint64_t* value) { counters[std::string(name)] = *value; });
      methods_[rank]->VisitState([&](std::string_view name, wire::MemoryRole, FloatVector* values) {
        *values = vectors.find(name)->second;
      });
      methods_[rank]->VisitCounters(
          [&](std::string_view name, uint64_t* value) { *value = counters.find(name)->second; });
    }
    freeze_.Restore(from.freeze_.state());
    steps_ = from.steps_;
    server_error_ = from.server_error_;
  }
  const Vector& server_error() const { return server_error_; }

  Vector parameter;  // what the next exchanges update, for methods that need it

  // Of the last exchange.
  std::vector<Vector> inputs;     // what Before returned, per rank
  std::vector<Payload> payloads;  // empty after a dense exchange
  Vector reduced;                 // before AfterExchange
  std::vector<Vector> outs;       // what the callers get, per rank
  std::vector<bool> flagged;      // the rank's gradient held something that is not finite
  bool finite = true;             // AfterExchange's answer, the same on all ranks

 private:
  void Exchange(const std::vector<Vector>& gradients, const TestCodec* codec) {
    const bool dense = codec == nullptr;
    const float weight = 1.0f / static_cast<float>(methods_.size());
    inputs.clear();
    payloads.clear();
    outs.clear();
    flagged.clear();
    reduced.assign(elements_, 0.0f);
    for (size_t rank = 0; rank < methods_.size(); ++rank) {
      TensorMethod& method = *methods_[rank];
      Vector scratch(elements_);
      bool nonfinite = false;
      if (method.needs_parameter()) method.SetParameter(parameter);
      const absl::Span<const float> send =
          method.Before(dense, gradients[rank], absl::MakeSpan(scratch), &nonfinite);
      inputs.emplace_back(send.begin(), send.end());
      flagged.push_back(nonfinite);
      if (!dense) {
        payloads.push_back((*codec)(send, method.residual()));
        if (payloads[rank].selects) method.AfterEncode(payloads[rank].sent);
      }
      const Vector& values = dense ? inputs[rank] : payloads[rank].decoded;
      for (size_t i = 0; i < elements_; ++i) reduced[i] += weight * values[i];
    }
    old_server_error_ = server_error_;
    if (!dense && !server_error_.empty()) CompressSum();
    finite = true;
    for (auto& method : methods_) {
      outs.push_back(reduced);
      finite = method->AfterExchange(dense, absl::MakeSpan(outs.back())) && finite;
    }
  }

  void CompressSum() {
    const size_t chunk = elements_ / methods_.size();
    for (size_t begin = 0; begin < elements_; begin += chunk) {
      const absl::Span<float> error = absl::MakeSpan(server_error_).subspan(begin, chunk);
      const Vector y = Compensate(absl::MakeSpan(reduced).subspan(begin, chunk), error);
      const Vector q = OneBitOf(y, server_rule_);
      for (size_t i = 0; i < chunk; ++i) {
        error[i] = y[i] - q[i];
        reduced[begin + i] = q[i];
      }
    }
  }

  const size_t elements_;
  std::vector<std::unique_ptr<TensorMethod>> methods_;
  VarianceFreeze freeze_;
  uint64_t steps_ = 0;  // applied
  OneBitRule server_rule_;
  Vector server_error_;  // all chunks one after the other; empty without a server
  Vector old_server_error_;
};

}  // namespace terse

#endif  // TERSE_TESTS_METHODS_SIMULATION_H_
