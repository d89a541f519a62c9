// SPDX-License-Identifier: Apache-2.0
//
// Which calls Terse would compress under a preload library, and why it leaves the others exact. Decided
// from what all ranks of a call know alike.
#ifndef TERSE_RUNTIME_INTERCEPT_ELIGIBILITY_H_
#define TERSE_RUNTIME_INTERCEPT_ELIGIBILITY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/intercept/signature.h"
#include "runtime/intercept/traffic.h"

namespace terse::intercept {

// The default of the configuration's key min_elements; a test holds the two together.
inline constexpr int64_t kDefaultMinElements = 4096;

// What a job says of which calls are to be compressed; alike on all ranks.
struct Rules {
  int64_t min_elements = kDefaultMinElements;
  bool doubles = false;  // sums of double precision, too
};

struct Verdict {
  bool compress = false;
  std::string reason;  // why, or why not
};
Verdict Judge(const CommunicatorRecord& record, const Site& site, const Vocabulary& vocabulary,
              const Rules& rules);

// The same of a call before it is made, but for its place in a period.
bool MayCompress(const Signature& signature, const CommunicatorFacts& facts, const Vocabulary& vocabulary,
                 const Rules& rules);

// What about a site that would be compressed speaks against its being a gradient; usually nothing.
std::vector<std::string> Doubts(const CommunicatorRecord& record, const Site& site);

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_ELIGIBILITY_H_
