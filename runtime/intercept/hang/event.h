// SPDX-License-Identifier: Apache-2.0
//
// What the report says of a wait that was spoken of (watch.h).
#ifndef TERSE_RUNTIME_INTERCEPT_HANG_EVENT_H_
#define TERSE_RUNTIME_INTERCEPT_HANG_EVENT_H_

#include <string>

namespace terse::intercept {

struct HangEvent {
  int rank = 0;         // who spoke
  std::string call;     // "call 12 of MPI_COMM_WORLD"
  double seconds = 0;   // as far as was seen
  bool over = false;    // the rank went on
  std::string message;  // what was said first
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_HANG_EVENT_H_
