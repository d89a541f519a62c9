// SPDX-License-Identifier: Apache-2.0
#include "examples/02_fashion_mnist/trainer.h"

#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numbers>
#include <numeric>
#include <stdexcept>

#include "examples/02_fashion_mnist/network.h"
#include "examples/02_fashion_mnist/optimizer.h"
#include "examples/common/torch_parameters.h"

namespace terse::examples {
namespace {

using Clock = std::chrono::steady_clock;

double Milliseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

struct Batch {
  torch::Tensor images;
  torch::Tensor labels;
};

Batch MakeBatch(const ImageSet& set, const std::vector<int64_t>& indices) {
  const auto count = static_cast<int64_t>(indices.size());
  Batch batch{torch::empty({count, 1, kImageSide, kImageSide}), torch::empty({count}, torch::kInt64)};
  float* image = batch.images.data_ptr<float>();
  auto* label = batch.labels.data_ptr<int64_t>();
  for (const int64_t index : indices) {
    set.CopyNormalized(index, image);
    image += kImagePixels;
    *label++ = set.labels[index];
  }
  return batch;
}

// Linear warm-up, then a cosine to zero.
double LearningRate(double peak, int64_t step, int64_t steps) {
  constexpr int64_t kWarmup = 100;
  const int64_t warmup = std::min(kWarmup, steps / 2);
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double done = static_cast<double>(step - warmup) / static_cast<double>(steps - warmup);
  return peak * 0.5 * (1 + std::cos(std::numbers::pi * done));
}

struct TestResult {
  double accuracy;  // percent
  double loss;      // mean cross-entropy
};

// How well the network does on the test set. Each rank takes its share. Collective.
TestResult Test(Network* network, const ImageSet& test, const MpiSession& session) {
  constexpr int64_t kBatch = 250;
  const torch::NoGradGuard no_gradients;
  std::vector<double> sums = {0, 0};
  for (int64_t first = session.rank() * kBatch; first < test.count(); first += session.size() * kBatch) {
    std::vector<int64_t> indices(std::min(kBatch, test.count() - first));
    std::iota(indices.begin(), indices.end(), first);
    const Batch batch = MakeBatch(test, indices);
    const torch::Tensor scores = network->forward(batch.images);
    sums[0] += scores.argmax(1).eq(batch.labels).sum().item<double>();
    sums[1] +=
        torch::cross_entropy_loss(scores, batch.labels).item<double>() * static_cast<double>(indices.size());
  }
  session.Average(&sums);
  const double ranks_per_image = session.size() / static_cast<double>(test.count());
  return {100 * sums[0] * ranks_per_image, sums[1] * ranks_per_image};
}

std::string Details(const CurvePoint& point, double images_per_second) {
  std::array<char, 128> text;
  std::snprintf(text.data(), text.size(), "loss %.3f  %.0f images/s  %s sent", point.loss, images_per_second,
                FormatBytes(point.bytes).c_str());
  return text.data();
}

}  // namespace

TrainingResult Train(const TrainingOptions& options, const Run& run, const FashionMnist& data,
                     const MpiSession& session) {
  UseOneThread();
  torch::manual_seed(options.seed);
  const std::shared_ptr<Network> network = MakeNetwork(options.network);
  TorchParameters parameters(*network);
  parameters.BroadcastFromRoot(session);

  GradientRecorder recorder(options.record, options.steps, session.rank(), parameters.descriptions());

  Group group = session.OpenGroup(run.config);
  const std::unique_ptr<JobOptimizer> optimizer =
      MakeJobOptimizer(run.rule, &group, parameters.descriptions());
  EpochSampler sampler(data.train.count(), options.batch_per_rank, session.rank(), session.size(),
                       options.seed);
  Progress progress(run.name, options.steps, session.is_root() ? options.progress : ProgressStyle::kNone);

  TrainingResult result;
  result.parameters = parameters.elements();
  Traffic traffic_of_warmup;
  const int64_t steps_per_point = std::max<int64_t>(1, options.steps / 100);
  const int64_t steps_per_evaluation =
      std::max<int64_t>(1, options.steps / std::max<int64_t>(1, options.evaluations));
  Clock::duration training_time{};
  double loss_sum = 0;
  int64_t loss_count = 0;
  auto point_begin = Clock::now();

  for (int64_t step = 0; step < options.steps; ++step) {
    if (step == run.warmup_steps) traffic_of_warmup = MeasureTraffic(group, session);

    const auto step_begin = Clock::now();
    const Batch batch = MakeBatch(data.train, sampler.Batch(step));
    parameters.ClearGradients();
    const torch::Tensor loss = torch::cross_entropy_loss(network->forward(batch.images), batch.labels);
    loss.backward();
    if (recorder.Wants(step)) recorder.Add(parameters.Gradients());
    optimizer->Step(parameters.Gradients(), parameters.Values(),
                    LearningRate(run.learning_rate, step, options.steps));
    training_time += Clock::now() - step_begin;
    loss_sum += loss.item<double>();
    ++loss_count;

    const int64_t done = step + 1;
    const bool last = done == options.steps;
    if (!last && done % steps_per_point != 0) continue;

    std::vector<double> mean_loss = {loss_sum / static_cast<double>(loss_count)};
    session.Average(&mean_loss);
    if (!std::isfinite(mean_loss[0])) {
      throw std::runtime_error("the loss is not finite at step " + std::to_string(done) +
                               "; a smaller --learning-rate may help");
    }
    CurvePoint point{done, MeasureTraffic(group, session).bytes_sent, mean_loss[0]};
    const double images = static_cast<double>(loss_count * options.batch_per_rank * session.size());
    progress.Show(done, Details(point, 1000 * images / Milliseconds(Clock::now() - point_begin)));
    const bool evaluate = last || done / steps_per_evaluation != (done - loss_count) / steps_per_evaluation;
    if (evaluate) {
      const TestResult test = Test(network.get(), data.test, session);
      point.accuracy = test.accuracy;
      point.test_loss = test.loss;
    }
    result.curve.push_back(point);
    loss_sum = 0;
    loss_count = 0;
    point_begin = Clock::now();
  }

  result.test_accuracy = result.curve.back().accuracy;
  result.test_loss = result.curve.back().test_loss;
  std::vector<double> step_ms = {Milliseconds(training_time) / static_cast<double>(options.steps)};
  session.Average(&step_ms);
  result.step_ms = step_ms[0];
  result.traffic = MeasureTraffic(group, session);
  if (run.warmup_steps < options.steps) result.steady_traffic = result.traffic - traffic_of_warmup;
  result.parameter_hashes = session.Gather(parameters.Hash());
  result.group_report = group.Report();
  group.Close();
  return result;
}

}  // namespace terse::examples
