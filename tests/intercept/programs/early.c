/* SPDX-License-Identifier: Apache-2.0
 *
 * usage: early barrier|allreduce
 *
 * A thread that asks MPI_Initialized until MPI is there, and then calls collectives of MPI_COMM_WORLD while
 * the main thread is still on its way out of MPI_Init: on ranks of even number before that thread has made
 * another step, on the others long after. First a barrier, or an all-reduce; then gradients, by non-blocking
 * calls.
 */
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "tests/intercept/programs/check.h"

enum { kSteps = 30, kElements = 8192 };

static pthread_t main_thread;
static volatile sig_atomic_t calling;
static const char* mode;

/* Of the main thread, wherever in MPI_Init it is. */
static void stay(int number) {
  (void)number;
  while (!calling) usleep(1000);
  usleep(300000);
}

/* Whole numbers so small that half precision has them, and their sums. */
static void step(int number) {
  static float gradient[kElements], sum[kElements];
  MPI_Request request;
  for (int i = 0; i < kElements; ++i) gradient[i] = (float)((i + number) % 8 + rank);
  MPI_Iallreduce(gradient, sum, kElements, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &request);
  MPI_Wait(&request, MPI_STATUS_IGNORE);
  ++calls[kNonblocking];
  for (int i = 0; i < kElements; ++i) {
    const int wanted = (i + number) % 8 * size + size * (size - 1) / 2;
    if (sum[i] != (float)wanted) fail("a gradient");
  }
}

static void* work(void* unused) {
  int initialized = 0, level = MPI_THREAD_SINGLE, sum = 0;
  while (!initialized) PMPI_Initialized(&initialized);
  PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
  PMPI_Comm_size(MPI_COMM_WORLD, &size);
  PMPI_Query_thread(&level);
  if (level != MPI_THREAD_MULTIPLE) fail("no MPI_THREAD_MULTIPLE");
  if (rank % 2 == 0) {
    pthread_kill(main_thread, SIGUSR1);
  } else {
    usleep(200000);
  }
  calling = 1;
  if (strcmp(mode, "barrier") == 0) {
    MPI_Barrier(MPI_COMM_WORLD);
  } else {
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    ++calls[kBlocking];
    if (sum != size * (size - 1) / 2) fail("the first sum");
  }
  for (int i = 0; i < kSteps; ++i) step(i);
  return unused;
}

int main(int argc, char** argv) {
  struct sigaction action;
  pthread_t thread;
  int provided;
  mode = argc > 1 ? argv[1] : "";
  memset(&action, 0, sizeof(action));
  action.sa_handler = stay;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, NULL);
  main_thread = pthread_self();
  pthread_create(&thread, NULL, work, NULL);
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  pthread_join(thread, NULL);
  print_calls();
  MPI_Finalize();
  return 0;
}
