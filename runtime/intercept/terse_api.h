// SPDX-License-Identifier: Apache-2.0
//
// libterse, found at run time: the preload library is linked to nothing that a program which only is observed
// would have to load. The functions are those of <terse/terse.h>.
#ifndef TERSE_RUNTIME_INTERCEPT_TERSE_API_H_
#define TERSE_RUNTIME_INTERCEPT_TERSE_API_H_

#include <string>

#include "terse/terse.h"

namespace terse::intercept {

// clang-format off
#define TERSE_API_FUNCTIONS(X)                                                                     \
  X(version) X(last_error) X(group_open_fcomm) X(group_close) X(group_set_exact) X(tensor_register) \
  X(tensor_set_steps_outside) X(tensor_dense_run) X(allreduce) X(step) X(group_report) X(config_show) X(string_free)
// clang-format on

struct TerseApi {
// NOLINTNEXTLINE(bugprone-macro-parentheses): it names a member
#define TERSE_API_MEMBER(name) decltype(&terse_##name) name;
  TERSE_API_FUNCTIONS(TERSE_API_MEMBER)
#undef TERSE_API_MEMBER
};

// The functions of the libterse.so beside this library, in the folder above, or where the loader looks; null
// and *error without one, or with one of another version. Any thread; it stays loaded.
const TerseApi* LoadTerse(std::string* error);

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_TERSE_API_H_
