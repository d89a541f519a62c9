/* SPDX-License-Identifier: Apache-2.0
 *
 * <terse/terse.h> is C99: compiled with -std=c99 -pedantic, used as a C program uses it.
 */
#include <stdio.h>
#include <string.h>
#include <terse/terse.h>

static int failures = 0;

static void Expect(int holds, const char* what) {
  if (!holds) {
    fprintf(stderr, "failed: %s (%s)\n", what, terse_last_error());
    ++failures;
  }
}
#define EXPECT(condition) Expect((condition), #condition)

int main(void) {
  const char* yaml =
      "compressor: quantize\n"
      "min_elements: 1\n"
      "transport: {name: inproc}\n"
      "rank: 0\n"
      "world_size: 1\n";
  const int64_t shape[2] = {4, 16};
  float gradient[64];
  float result[64];
  float parameters[64];
  const void* sends[1];
  void* results[1];
  terse_group_t* group = NULL;
  terse_request_t* request = NULL;
  terse_tensor_t tensor = -1;
  int32_t number = -1;
  int32_t done = 0;
  char* text = NULL;
  const char* path = "c_api_test_state"; /* where CTest runs it: in the build folder */
  int i;

  for (i = 0; i < 64; ++i) {
    gradient[i] = (float)(i - 32) / 32.0f;
    result[i] = 0.0f;
    parameters[i] = 1.0f;
  }
  sends[0] = gradient;
  results[0] = result;

  EXPECT(terse_version() == TERSE_VERSION_NUMBER);
  EXPECT(terse_group_open("no such key: 1\n", &group) == TERSE_CONFIG_INVALID);
  EXPECT(strstr(terse_last_error(), "no such key") != NULL);
  EXPECT(terse_group_open(yaml, &group) == TERSE_OK);
  EXPECT(terse_group_rank(group, &number) == TERSE_OK && number == 0);
  EXPECT(terse_group_size(group, &number) == TERSE_OK && number == 1);
  EXPECT(terse_tensor_register(group, "weight", TERSE_FLOAT32, shape, 2, &tensor) == TERSE_OK);
  EXPECT(tensor == 0);

  EXPECT(terse_allreduce(group, tensor, gradient, result) == TERSE_OK);
  EXPECT(result[0] < -0.8f && result[63] > 0.8f);
  EXPECT(terse_step(group, 1.0) == TERSE_OK);
  EXPECT(terse_allreduce_many(group, 1, &tensor, sends, results) == TERSE_OK);
  EXPECT(terse_allreduce_async(group, tensor, gradient, result, &request) == TERSE_OK);
  EXPECT(terse_wait(request) == TERSE_OK);
  EXPECT(terse_step(group, 0.0) == TERSE_OK);
  EXPECT(terse_allreduce_async(group, tensor, gradient, result, &request) == TERSE_OK);
  while (done == 0) {
    if (terse_test(request, &done) != TERSE_OK) break;
  }
  EXPECT(done == 1);
  EXPECT(terse_group_set_loss_scale(group, 128.0) == TERSE_OK);
  EXPECT(terse_group_set_global_batch(group, 32) == TERSE_OK);
  EXPECT(terse_group_set_global_batch(group, -1) == TERSE_INVALID_ARGUMENT);
  results[0] = parameters;
  EXPECT(terse_optimizer_step(group, 1, &tensor, sends, results, 0.1, &number) == TERSE_OK);
  EXPECT(number == 1 && parameters[0] > 1.0f && parameters[63] < 1.0f);

  EXPECT(terse_state_save(group, NULL) == TERSE_INVALID_ARGUMENT);
  EXPECT(terse_state_save(group, path) == TERSE_OK);
  EXPECT(terse_state_load(group, path) == TERSE_OK);
  EXPECT(terse_state_show(path, &text) == TERSE_OK);
  EXPECT(text != NULL && strstr(text, "\"method\":\"allreduce\"") != NULL);
  terse_string_free(text);

  EXPECT(terse_group_report(group, &text) == TERSE_OK);
  EXPECT(text != NULL && strstr(text, "\"weight\"") != NULL);
  terse_string_free(text);
  EXPECT(terse_config_show(yaml, 0, &text) == TERSE_OK);
  EXPECT(text != NULL && strstr(text, "min_elements = 1") != NULL);
  terse_string_free(text);
  EXPECT(terse_group_close(group) == TERSE_OK);
  return failures == 0 ? 0 : 1;
}
