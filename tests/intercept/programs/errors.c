/* SPDX-License-Identifier: Apache-2.0
 *
 * usage: errors blocking|nonblocking|persistent world|own
 *
 * Two gradients that have names (terse_preload.h). In the end the ranks give one call different names, which
 * the compressed exchange refuses on all of them. Whoever waits for it learns of that, and so does the error
 * handler of the call's communicator, once: MPI_COMM_WORLD, or one of the program's own. That of
 * MPI_COMM_WORLD hears of no other communicator's errors, but for MPICH, which goes to it with receives that
 * failed before they were waited for.
 */
#include "runtime/client/include/terse/terse_preload.h"
#include "tests/intercept/programs/check.h"

enum { kSteps = 5, kElements = 8192 };

#if defined(OPEN_MPI)
enum { kWorldHears = 0 };
#else
enum { kWorldHears = 1 };
#endif

struct Told {
  int times, first; /* class of the first error */
};
static struct Told of_own, of_world;

static void tell(struct Told* told, int code) {
  if (told->times++ == 0) MPI_Error_class(code, &told->first);
}
/* NOLINTBEGIN(readability-non-const-parameter): the type is MPI's */
static void on_own(MPI_Comm* comm, int* code, ...) {
  (void)comm;
  tell(&of_own, *code);
}
static void on_world(MPI_Comm* comm, int* code, ...) {
  (void)comm;
  tell(&of_world, *code);
}
/* NOLINTEND(readability-non-const-parameter) */

int main(int argc, char** argv) {
  static const char* const names[2] = {"first", "second"};
  static float gradient[kElements], sum[kElements];
  const char* mode = argc > 2 ? argv[1] : "";
  const int own = argc > 2 && strcmp(argv[2], "own") == 0;
  const int blocking = strcmp(mode, "blocking") == 0, persistent = strcmp(mode, "persistent") == 0;
  MPI_Comm comm = MPI_COMM_WORLD;
  MPI_Errhandler own_handler, world_handler;
  MPI_Request request = MPI_REQUEST_NULL;
  int provided, result = MPI_SUCCESS;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm_create_errhandler(on_own, &own_handler);
  MPI_Comm_create_errhandler(on_world, &world_handler);
  if (own) {
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Comm_set_errhandler(comm, own_handler);
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, world_handler);
  for (int i = 0; i < kElements; ++i) gradient[i] = (float)(i % 8);
  if (persistent) AllreduceInit(gradient, sum, kElements, MPI_FLOAT, MPI_SUM, comm, MPI_INFO_NULL, &request);
  for (int i = 0; i <= 2 * kSteps; ++i) {
    const int last = i == 2 * kSteps;
    if (of_own.times + of_world.times != 0 || result != MPI_SUCCESS) fail("an error where none is");
    terse_preload_name(names[last ? rank % 2 : i % 2]);
    if (blocking) {
      result = MPI_Allreduce(gradient, sum, kElements, MPI_FLOAT, MPI_SUM, comm);
      calls[kBlocking] += !last; /* one that fails is not counted */
      continue;
    }
    if (persistent) {
      MPI_Start(&request);
    } else {
      MPI_Iallreduce(gradient, sum, kElements, MPI_FLOAT, MPI_SUM, comm, &request);
    }
    ++calls[persistent ? kPersistent : kNonblocking];
    result = MPI_Wait(&request, MPI_STATUS_IGNORE);
  }
  if (result == MPI_SUCCESS) fail("the wait knows of no error");
  const struct Told wanted = own ? of_own : of_world;
  const int more = own ? of_world.times : of_world.times - 1;
  if (wanted.first != MPI_ERR_OTHER || of_own.times != own || more < 0 ||
      more > (blocking ? 0 : kWorldHears)) {
    fprintf(stderr, "told: %d times of its own communicator, %d of MPI_COMM_WORLD\n", of_own.times,
            of_world.times);
    fail("the communicator's error handler");
  }
  /* Open MPI 4.1 has freed a request that failed. */
  if (persistent && request != MPI_REQUEST_NULL) MPI_Request_free(&request);
  print_calls();
  MPI_Finalize();
  return 0;
}
