// SPDX-License-Identifier: Apache-2.0
//
// Fashion-MNIST: 60,000 training and 10,000 test images of 28 x 28 grey pixels in 10 classes.
#ifndef TERSE_EXAMPLES_02_FASHION_MNIST_DATASET_H_
#define TERSE_EXAMPLES_02_FASHION_MNIST_DATASET_H_

#include <cstdint>
#include <string>
#include <vector>

#include "examples/common/mpi_session.h"

namespace terse::examples {

inline constexpr int64_t kImageSide = 28;
inline constexpr int64_t kImagePixels = kImageSide * kImageSide;
inline constexpr int64_t kClasses = 10;

struct ImageSet {
  std::vector<uint8_t> pixels;  // count() images, row-major
  std::vector<uint8_t> labels;  // each below kClasses

  int64_t count() const { return static_cast<int64_t>(labels.size()); }
  // Writes image `index`, normalised to mean 0 and deviation 1 over the training set.
  void CopyNormalized(int64_t index, float* to) const;
};

struct FashionMnist {
  ImageSet train;
  ImageSet test;
};

// Rank 0 reads Debian's files from `folder`; the others get them from it. Throws std::runtime_error when
// a file is missing or not what it should be. Collective.
FashionMnist LoadFashionMnist(const std::string& folder, const MpiSession& session);

// The order in which training images are used. A seed fixes one permutation of all images for each epoch,
// whatever the number of ranks; rank r takes the r-th slice of each step's global batch, so that no image
// is used twice in an epoch and the same seed gives the same global batches.
class EpochSampler {
 public:
  EpochSampler(int64_t images, int64_t batch_per_rank, int rank, int ranks, uint64_t seed);

  // What remains of an epoch after its last whole global batch is left out.
  int64_t steps_per_epoch() const { return steps_per_epoch_; }
  // The images of this rank in `step`, counted from 0 over all epochs. Steps come in ascending order.
  std::vector<int64_t> Batch(int64_t step);

 private:
  void Shuffle(int64_t epoch);

  int64_t batch_per_rank_;
  int64_t global_batch_;
  int rank_;
  uint64_t seed_;
  int64_t steps_per_epoch_;
  int64_t epoch_ = -1;
  std::vector<int64_t> order_;
};

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_02_FASHION_MNIST_DATASET_H_
