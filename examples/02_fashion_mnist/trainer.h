// SPDX-License-Identifier: Apache-2.0
//
// Data-parallel training of one network with one run of runs.h.
#ifndef TERSE_EXAMPLES_02_FASHION_MNIST_TRAINER_H_
#define TERSE_EXAMPLES_02_FASHION_MNIST_TRAINER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "examples/02_fashion_mnist/dataset.h"
#include "examples/02_fashion_mnist/runs.h"
#include "examples/common/gradient_recorder.h"
#include "examples/common/mpi_session.h"
#include "examples/common/progress.h"
#include "examples/common/traffic.h"

namespace terse::examples {

struct TrainingOptions {
  std::string network;
  int64_t steps = 0;
  int64_t batch_per_rank = 32;
  uint64_t seed = 1;        // of the initial weights and of the order of the data
  int64_t evaluations = 6;  // on the test set, evenly spread; the last is at the end
  ProgressStyle progress = ProgressStyle::kAuto;
  RecordOptions record;
};

struct CurvePoint {
  int64_t step = 0;      // steps done
  double bytes = 0;      // sent by a rank so far
  double loss = 0;       // mean of the training loss since the point before
  double accuracy = -1;  // on the test set, percent; negative: not measured here
  double test_loss = 0;  // mean cross-entropy on the test set, where accuracy was measured
};

// Everything that is a sum or a time is the mean over the ranks.
struct TrainingResult {
  int64_t parameters = 0;
  double test_accuracy = 0;                // percent, at the end
  double test_loss = 0;                    // mean cross-entropy on the test set, at the end
  double step_ms = 0;                      // mean of a whole step: data, forward, backward, exchange, update
  Traffic traffic;                         // of the whole run
  Traffic steady_traffic;                  // of its steps from run.warmup_steps on; zero when there are none
  std::vector<uint64_t> parameter_hashes;  // one per rank
  std::vector<CurvePoint> curve;
  std::string group_report;  // rank 0's, JSON
};

// Throws std::runtime_error when the loss is no longer finite. Collective.
TrainingResult Train(const TrainingOptions& options, const Run& run, const FashionMnist& data,
                     const MpiSession& session);

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_02_FASHION_MNIST_TRAINER_H_
