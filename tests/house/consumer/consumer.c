/* SPDX-License-Identifier: Apache-2.0
 *
 * A user's program in C99: one rank, one tensor, one step. Says what it got; fails with a reason.
 */
#include <stdio.h>
#include <stdlib.h>
#include <terse/terse.h>

static void check(terse_status_t status, const char* call) {
  if (status == TERSE_OK) return;
  fprintf(stderr, "%s: %s: %s\n", call, terse_status_string(status), terse_last_error());
  exit(1);
}

int main(void) {
  const char* config =
      "compressor: none\n"
      "transport: {name: inproc}\n"
      "rank: 0\n"
      "world_size: 1\n";
  terse_group_t* group = NULL;
  terse_tensor_t tensor = -1;
  const int64_t shape[1] = {4};
  float gradient[4] = {1.0f, -2.0f, 0.5f, 0.0f};
  float result[4] = {9.0f, 9.0f, 9.0f, 9.0f};
  int i;

  if (terse_version() != TERSE_VERSION_NUMBER) {
    fprintf(stderr, "the library is %d, the header %d\n", (int)terse_version(), TERSE_VERSION_NUMBER);
    return 1;
  }
  check(terse_group_open(config, &group), "terse_group_open");
  check(terse_tensor_register(group, "weight", TERSE_FLOAT32, shape, 1, &tensor), "terse_tensor_register");
  check(terse_allreduce(group, tensor, gradient, result), "terse_allreduce");
  check(terse_step(group, 1.0), "terse_step");
  check(terse_group_close(group), "terse_group_close");
  for (i = 0; i < 4; ++i) {
    if (result[i] != gradient[i]) {
      fprintf(stderr, "element %d: %g instead of %g\n", i, result[i], gradient[i]);
      return 1;
    }
  }
  puts("consumer in C: fine");
  return 0;
}
