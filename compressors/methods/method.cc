// SPDX-License-Identifier: Apache-2.0
#include "compressors/methods/method.h"

#include "compressors/methods/dgc.h"
#include "compressors/methods/error_feedback.h"
#include "compressors/methods/onebit_adam.h"

namespace terse {

std::unique_ptr<TensorMethod> MakeTensorMethod(const wire::Config& config, const TensorFacts& tensor) {
  switch (config.method) {
    case wire::Method::kDgc:
      return std::make_unique<Dgc>(config.dgc, tensor);
    case wire::Method::kOneBitAdam:
      return std::make_unique<OneBitAdam>(config.adam, tensor);
    case wire::Method::kAllreduce:
      break;
  }
  return std::make_unique<ErrorFeedback>(config.topk, tensor);
}

std::unique_ptr<ParameterUpdate> MakeParameterUpdate(const wire::Config& config, size_t elements) {
  switch (config.method) {
    case wire::Method::kDgc:
      return std::make_unique<DgcUpdate>(config.dgc, elements);
    case wire::Method::kOneBitAdam:
      return std::make_unique<OneBitAdamUpdate>(config.adam);
    case wire::Method::kAllreduce:
      break;
  }
  return std::make_unique<SgdUpdate>();
}

}  // namespace terse
