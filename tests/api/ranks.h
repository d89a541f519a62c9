// SPDX-License-Identifier: Apache-2.0
//
// Threads as ranks over transport inproc, and what the API's tests say about vectors.
#ifndef TERSE_TESTS_API_RANKS_H_
#define TERSE_TESTS_API_RANKS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "terse/terse.hpp"

namespace terse::testing {

using Vector = std::vector<float>;

// How one rank's part ended.
struct Outcome {
  terse_status_t status = TERSE_OK;
  std::string detail;
};

// Opens a group of `size` ranks, each a thread with `yaml` as its configuration, runs body(group, rank)
// on each and closes the group when the body has not. Outcomes by rank.
using Body = std::function<void(Group& group, int rank)>;
std::vector<Outcome> RunRanks(int size, const std::string& yaml, const Body& body);

// The same with a configuration of its own for each rank.
std::vector<Outcome> RunRanks(int size, const std::function<std::string(int rank)>& yaml, const Body& body);

// RunRanks that must succeed on every rank.
void RunRanksOk(int size, const std::string& yaml, const Body& body);

// YAML that makes `rank` of `size` meet the others at `hub`; everything else as given.
std::string InprocYaml(int rank, int size, const std::string& hub, const std::string& more,
                       int timeout_s = 20);
// A hub that no other group of this process uses.
std::string UniqueHub();

// Deterministic noise: normal, elements of widely differing size. Equal arguments give equal vectors.
Vector Noise(size_t n, int rank, int step);

// Small whole numbers, whose sums and means over 2 or 4 ranks are exact in every floating type.
Vector WholeNumbers(size_t n, int rank, int step);

// The exact mean over ranks, in fp64, of make(rank).
std::vector<double> MeanOverRanks(int size, const std::function<Vector(int rank)>& make);

// |a - b| / |b|, L2. Infinite when an element of `a` is not finite.
double RelativeError(const std::vector<double>& a, const std::vector<double>& b);
double RelativeError(const Vector& a, const std::vector<double>& b);

void AddTo(std::vector<double>* sum, const Vector& values, double factor = 1.0);

bool SameBits(const Vector& a, const Vector& b);

// A codec as the configuration names it, and what may be expected of it.
struct CodecCase {
  std::string name;
  std::string yaml;
  // Bound of |result - mean| / |mean| of the first exchange, from the codec's definition.
  double first_error;
  // Bound of the same for sums over many steps, after steps of zero gradients have drained the residuals.
  double drained_error;
};
// Every compressor with its variants; all tensors are compressed, whatever their size and name.
const std::vector<CodecCase>& CodecCases();
// Those with a memory: all but `none`.
std::vector<CodecCase> CodecCasesWithMemory();
void PrintTo(const CodecCase& codec, std::ostream* out);

// A method with a codec and parameters; all tensors are compressed, whatever their size and name.
struct MethodCase {
  std::string name;
  std::string yaml;
};
// Every compressor, and every method in each of its stages and forms.
const std::vector<MethodCase>& MethodCases();
void PrintTo(const MethodCase& method, std::ostream* out);

}  // namespace terse::testing

#endif  // TERSE_TESTS_API_RANKS_H_
