/* SPDX-License-Identifier: Apache-2.0
 *
 * usage: hang late|cycle|forms|wait|persistent|compressed|finalize|killed|stopped
 *
 * A job whose last calls wait for something. All but `late` wait forever: whoever starts them ends them.
 */
#include <signal.h>
#include <unistd.h>

#include "tests/intercept/programs/check.h"

static void reduce(int count, MPI_Comm comm) {
  static float in[1000], out[1000], reference[1000];
  fill(in, count, count);
  MPI_Allreduce(in, out, count, MPI_FLOAT, MPI_SUM, comm);
  ++calls[kBlocking];
  PMPI_Allreduce(in, reference, count, MPI_FLOAT, MPI_SUM, comm);
  same(out, reference, sizeof(float) * (size_t)count, "sum");
}

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "";
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  for (int i = 0; i < 3; ++i) reduce(10, MPI_COMM_WORLD);
  double one = 1, sum = 0;
  if (strcmp(mode, "late") == 0) {
    if (rank == 1) sleep(3);
    reduce(1000, MPI_COMM_WORLD);
  } else if (strcmp(mode, "cycle") == 0) {
    MPI_Comm comms[2];
    for (int i = 0; i < 2; ++i) {
      MPI_Comm_dup(MPI_COMM_WORLD, &comms[i]);
      MPI_Comm_set_name(comms[i], i == 0 ? "first" : "second");
      reduce(5, comms[i]);
    }
    MPI_Allreduce(&one, &sum, 1, MPI_DOUBLE, MPI_SUM, comms[rank % 2]);
    MPI_Allreduce(&one, &sum, 1, MPI_DOUBLE, MPI_SUM, comms[1 - rank % 2]);
  } else if (strcmp(mode, "forms") == 0) {
    MPI_Request request;
    if (rank == 1) {
      MPI_Iallreduce(&one, &sum, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD, &request);
      MPI_Wait(&request, MPI_STATUS_IGNORE);
    } else {
      MPI_Allreduce(&one, &sum, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    }
  } else if (strcmp(mode, "wait") == 0) {
    /* Rank 1 makes the first of two calls only. */
    MPI_Request requests[2];
    MPI_Iallreduce(&one, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD, &requests[0]);
    if (rank == 1) sleep(1000);
    MPI_Iallreduce(&one, &sum, 1, MPI_DOUBLE, MPI_MIN, MPI_COMM_WORLD, &requests[1]);
    MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
  } else if (strcmp(mode, "persistent") == 0) {
    /* Rank 1 starts it once only, the others twice. */
    MPI_Request request;
    AllreduceInit(&one, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD, MPI_INFO_NULL, &request);
    for (int i = 0; i < 2; ++i) {
      if (i == 1 && rank == 1) sleep(1000);
      MPI_Start(&request);
      MPI_Wait(&request, MPI_STATUS_IGNORE);
    }
  } else if (strcmp(mode, "compressed") == 0) {
    /* Rank 1 leaves a step when its first gradient has been summed up. */
    static float gradient[2][8192], mean[8192];
    for (int step = 0; step < 10; ++step) {
      for (int i = 0; i < 2; ++i) {
        if (step == 9 && i == 1 && rank == 1) sleep(1000);
        fill(gradient[i], 8192, 2 * step + i);
        MPI_Allreduce(gradient[i], mean, 8192, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      }
    }
  } else if (strcmp(mode, "finalize") == 0) {
    if (rank == 1) {
      MPI_Finalize();
      return 0;
    }
    MPI_Allreduce(&one, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  } else {
    if (rank == 1) raise(strcmp(mode, "killed") == 0 ? SIGKILL : SIGSTOP);
    MPI_Allreduce(&one, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  }
  print_calls();
  MPI_Finalize();
  return 0;
}
