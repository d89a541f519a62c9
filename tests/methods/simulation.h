// SPDX-License-Identifier: Apache-2.0
//
// One tensor on several simulated ranks: calls each rank's method in the order of
// compressors/methods/method.h, with codecs so plain that what they do can be seen at a glance.
#ifndef TERSE_TESTS_METHODS_SIMULATION_H_
#define TERSE_TESTS_METHODS_SIMULATION_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "compressors/methods/method.h"

namespace terse {

using Vector = std::vector<float>;

// What one rank sent: its decoded values, and their positions where the codec selects.
struct Payload {
  Vector decoded;
  std::vector<uint32_t> sent;
  bool selects = false;
};

// Encodes c = input + residual and leaves residual = c - decoded.
using TestCodec = std::function<Payload(absl::Span<const float> input, absl::Span<float> residual)>;

inline Vector Compensate(absl::Span<const float> input, absl::Span<const float> residual) {
  Vector c(input.begin(), input.end());
  for (size_t i = 0; i < residual.size(); ++i) c[i] += residual[i];
  return c;
}

// Sends exactly k elements of largest magnitude; of equal ones the first. `sent_as` is what becomes of a
// value on its way.
inline TestCodec TopK(
    size_t k, float (*sent_as)(float) = [](float x) { return x; }) {
  return [k, sent_as](absl::Span<const float> input, absl::Span<float> residual) {
    const Vector c = Compensate(input, residual);
    std::vector<uint32_t> order(c.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return std::fabs(c[a]) > std::fabs(c[b]); });
    order.resize(std::min(k, c.size()));
    std::sort(order.begin(), order.end());
    Payload payload{Vector(c.size()), order, true};
    std::copy(c.begin(), c.end(), residual.begin());
    for (const uint32_t i : order) {
      payload.decoded[i] = sent_as(c[i]);
      residual[i] = c[i] - payload.decoded[i];
    }
    return payload;
  };
}

// The root mean square, and each element's sign times it; sgn(0) = +1.
inline float L2Scale(absl::Span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return values.empty() ? 0.0f : static_cast<float>(std::sqrt(sum / static_cast<double>(values.size())));
}
inline Vector OneBitOf(absl::Span<const float> values) {
  const float scale = L2Scale(values);
  Vector out;
  for (const float value : values) out.push_back(value >= 0 ? scale : -scale);
  return out;
}
inline TestCodec OneBit() {
  return [](absl::Span<const float> input, absl::Span<float> residual) {
    const Vector c = Compensate(input, residual);
    Payload payload{OneBitOf(c), {}, false};
    for (size_t i = 0; i < residual.size(); ++i) residual[i] = c[i] - payload.decoded[i];
    return payload;
  };
}

// Sends everything as it is: what an exchange without loss would be.
inline TestCodec Lossless() {
  return [](absl::Span<const float> input, absl::Span<float> residual) {
    Payload payload{Compensate(input, residual), {}, false};
    std::fill(residual.begin(), residual.end(), 0.0f);
    return payload;
  };
}

class SimulatedRanks {
 public:
  SimulatedRanks(const wire::Config& config, const TensorFacts& tensor, size_t world_size)
      : elements_(tensor.elements) {
    TensorFacts facts = tensor;
    facts.world_size = static_cast<int>(world_size);
    for (size_t rank = 0; rank < world_size; ++rank) {
      methods_.push_back(MakeTensorMethod(config, facts));
    }
  }

  // The second compression of a scatter-reduce-all-gather: `world_size` chunks, each 1 bit an element with
  // a scale and a server error of its own.
  void UseServer() { server_error_.assign(elements_, 0.0f); }

  // An exact mean, added in rank order.
  void ExchangeDense(const std::vector<Vector>& gradients) { Exchange(gradients, nullptr); }
  void ExchangeCompressed(const std::vector<Vector>& gradients, const TestCodec& codec) {
    Exchange(gradients, &codec);
  }

  // Ends the step, as terse_step(applied).
  void Step(double applied) {
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
  }

  // The state called `name` of one rank; empty when there is none.
  Vector State(size_t rank, std::string_view name) {
    Vector found;
    methods_[rank]->VisitState([&](std::string_view visited, absl::Span<float> values) {
      if (visited == name) found.assign(values.begin(), values.end());
    });
    return found;
  }
  std::vector<std::string> StateNames(size_t rank) {
    std::vector<std::string> names;
    methods_[rank]->VisitState([&](std::string_view name, absl::Span<float>) { names.emplace_back(name); });
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
      const Vector q = OneBitOf(y);
      for (size_t i = 0; i < chunk; ++i) {
        error[i] = y[i] - q[i];
        reduced[begin + i] = q[i];
      }
    }
  }

  const size_t elements_;
  std::vector<std::unique_ptr<TensorMethod>> methods_;
  Vector server_error_;  // all chunks one after the other; empty without a server
  Vector old_server_error_;
};

// Gradients of every rank, the same numbers in every run.
class RandomGradients {
 public:
  RandomGradients(size_t world_size, size_t elements, uint32_t seed)
      : world_size_(world_size), elements_(elements), random_(seed) {}

  float Uniform() { return static_cast<float>(random_() % 20001) / 10000.0f - 1.0f; }
  std::vector<Vector> Next() {
    std::vector<Vector> gradients(world_size_, Vector(elements_));
    for (Vector& gradient : gradients) {
      for (float& g : gradient) g = Uniform();
    }
    return gradients;
  }
  // Small integers: their sums, and halves and quarters of them, are exact in fp32.
  std::vector<Vector> NextIntegers() {
    std::vector<Vector> gradients(world_size_, Vector(elements_));
    for (Vector& gradient : gradients) {
      for (float& g : gradient) g = static_cast<float>(static_cast<int>(random_() % 17) - 8);
    }
    return gradients;
  }

 private:
  const size_t world_size_;
  const size_t elements_;
  std::mt19937 random_;
};

}  // namespace terse

#endif  // TERSE_TESTS_METHODS_SIMULATION_H_
