// SPDX-License-Identifier: Apache-2.0
//
// All choices of the first layers against all of the others. With less than 64 candidates in all there are at
// most 3^21 choices, so some 10^5 of each half.
#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "runtime/controller/policy/knapsack_parts.h"

namespace terse::policy {
namespace {

// A choice of some layers in a row: when the first of them may start at `start`, the last is done at
// max(start + size, least).
struct Part {
  double error = 0;
  double size = 0;
  double least = 0;
  uint64_t code = 0;  // positions in mixed radix, the first layer's last
};

std::vector<Part> AllOf(const Parts& parts, size_t begin, size_t end) {
  std::vector<Part> all = {{}};
  uint64_t radix = 1;
  for (size_t l = begin; l < end; ++l) {
    const Layer& layer = parts.layers[l];
    std::vector<Part> next;
    next.reserve(all.size() * layer.size());
    for (size_t k = 0; k < layer.size(); ++k) {
      for (const Part& part : all) {
        next.push_back({.error = part.error + layer[k].error,
                        .size = part.size + layer[k].size,
                        .least = std::max(part.least, parts.ready[l]) + layer[k].size,
                        .code = part.code + radix * k});
      }
    }
    all = std::move(next);
    radix *= layer.size();
  }
  return all;
}

void Decode(const Parts& parts, size_t begin, size_t end, uint64_t code, Positions* positions) {
  for (size_t l = begin; l < end; ++l) {
    const uint64_t count = parts.layers[l].size();
    (*positions)[l] = static_cast<uint32_t>(code % count);
    code /= count;
  }
}

// The part of the layers before which all choices are about as many as those of the rest.
size_t Middle(const Parts& parts) {
  const size_t n = parts.layers.size();
  std::vector<double> after(n + 1, 1.0);
  for (size_t l = n; l-- > 0;) after[l] = after[l + 1] * static_cast<double>(parts.layers[l].size());
  double before = 1;
  size_t middle = 0;
  double most = after[0];
  for (size_t l = 0; l < n; ++l) {
    before *= static_cast<double>(parts.layers[l].size());
    if (std::max(before, after[l + 1]) < most) {
      most = std::max(before, after[l + 1]);
      middle = l + 1;
    }
  }
  return middle;
}

// Of parts that start at 0, those that no other has both less error and an earlier end than, by growing
// error.
void KeepFront(std::vector<Part>* all) {
  std::sort(all->begin(), all->end(), [](const Part& a, const Part& b) {
    return std::tie(a.error, a.least, a.code) < std::tie(b.error, b.least, b.code);
  });
  double least = std::numeric_limits<double>::infinity();
  std::erase_if(*all, [&](const Part& part) {
    if (part.least >= least) return true;
    least = part.least;
    return false;
  });
}

}  // namespace

std::optional<Positions> SolveExactly(const Parts& parts) {
  const size_t middle = Middle(parts);
  const size_t n = parts.layers.size();
  std::vector<Part> first = AllOf(parts, 0, middle);
  const std::vector<Part> second = AllOf(parts, middle, n);
  KeepFront(&first);

  // Halves add up to something else than all in a row, in the last digits: a sum that is over the budget in
  // these alone is looked for again with a little less.
  for (const double slack : {1e-14, 0.0, -1e-14}) {
    const double budget = parts.budget + slack * parts.budget;
    double best_finish = std::numeric_limits<double>::infinity();
    double best_error = best_finish;
    const Part* best_first = nullptr;
    const Part* best_second = nullptr;
    for (const Part& after : second) {
      // The earliest that there is error left for, and of those that end as early in the end the one of least
      // error.
      auto found = std::upper_bound(first.begin(), first.end(), budget - after.error,
                                    [](double error, const Part& part) { return error < part.error; });
      if (found == first.begin()) continue;
      --found;
      const double finish = std::max(found->least + after.size, after.least);
      if (finish > best_finish) continue;
      found = std::partition_point(first.begin(), found, [&](const Part& part) {
        return std::max(part.least + after.size, after.least) > finish;
      });
      const double error = found->error + after.error;
      if (finish == best_finish && error >= best_error) continue;
      best_finish = finish;
      best_error = error;
      best_first = &*found;
      best_second = &after;
    }
    if (best_first == nullptr) continue;
    Positions positions(n);
    Decode(parts, 0, middle, best_first->code, &positions);
    Decode(parts, middle, n, best_second->code, &positions);
    if (ErrorOf(parts, positions) <= parts.budget) return positions;
  }
  return std::nullopt;
}

}  // namespace terse::policy
