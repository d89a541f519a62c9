/* SPDX-License-Identifier: Apache-2.0
 *
 * usage: overlap [multiple|persistent]...
 *
 * A job that trains with non-blocking all-reduces, or persistent ones, with no word of Terse: gradient
 * descent with momentum on kTensors tensors, each step completed by another form of waiting or testing. In
 * every other step a rank waits for a message that its neighbour sends between its starts and its waits, so a
 * start that waits for the other ranks ends in a deadlock. A loss in double precision goes along,
 * non-blocking too, and a blocking gradient, in every third step in place (of persistent ones, always the
 * last). Checks statuses and requests after each form. Prints 'expect
 * {...}' and 'distance' as `descend` does. `multiple`: asks for MPI_THREAD_MULTIPLE by itself.
 */
#include <math.h>

#include "tests/intercept/programs/check.h"

enum { kTensors = 3, kCalls = kTensors + 2, kParameters = 8000, kSteps = 250, kForms = 9 };

static float gradient[kTensors + 1][kParameters], sum[kTensors + 1][kParameters];
static float weight[kTensors + 1][kParameters], velocity[kTensors + 1][kParameters];

static float target(int r, int t, int i) { return (float)((i * 31 + r * 17 + t * 7) % 101) / 50.0f - 1.0f; }

static void check_status(const MPI_Status* status) {
  int elements = -1, cancelled = -1;
  MPI_Test_cancelled(status, &cancelled);
  MPI_Get_elements(status, MPI_CHAR, &elements);
  if (cancelled != 0) fail("a call that says it was cancelled");
}

static int persistent;

static void must_be_over(const MPI_Request* requests) {
  for (int i = 0; i < kCalls - 1; ++i) {
    if ((requests[i] != MPI_REQUEST_NULL) != persistent)
      fail("a request that outlives its call, or does not");
  }
}

static void complete(MPI_Request* requests, int form) {
  const int n = kCalls - 1;
  MPI_Status status, statuses[kCalls];
  int indices[kCalls], index, flag = 0, done = 0, some;
  switch (form) {
    case 0:
      for (int i = n - 1; i >= 0; --i) {
        MPI_Wait(&requests[i], &status);
        check_status(&status);
      }
      break;
    case 1:
      for (int i = 0; i < n; ++i) {
        for (flag = 0; !flag;) MPI_Test(&requests[i], &flag, &status);
        check_status(&status);
      }
      break;
    case 2:
      for (int i = 0; i < n; ++i) {
        MPI_Waitany(n, requests, &index, &status);
        if (index < 0 || index >= n) fail("the index of MPI_Waitany");
        check_status(&status);
      }
      break;
    case 3:
      while (done < n) {
        MPI_Testany(n, requests, &index, &flag, &status);
        if (flag) {
          if (index < 0 || index >= n) fail("the index of MPI_Testany");
          check_status(&status);
          ++done;
        }
      }
      break;
    case 4:
      while (done < n) {
        MPI_Waitsome(n, requests, &some, indices, statuses);
        if (some < 1) fail("MPI_Waitsome");
        for (int i = 0; i < some; ++i) check_status(&statuses[i]);
        done += some;
      }
      break;
    case 5:
      while (done < n) {
        MPI_Testsome(n, requests, &some, indices, statuses);
        for (int i = 0; i < some; ++i) check_status(&statuses[i]);
        done += some;
      }
      break;
    case 6:
      MPI_Waitall(n, requests, statuses);
      for (int i = 0; i < n; ++i) check_status(&statuses[i]);
      break;
    case 7:
      while (!flag) MPI_Testall(n, requests, &flag, MPI_STATUSES_IGNORE);
      break;
    default:
      for (int i = 0; i < n; ++i) {
        for (flag = 0; !flag;) MPI_Request_get_status(requests[i], &flag, &status);
        if (requests[i] == MPI_REQUEST_NULL) fail("MPI_Request_get_status ended a request");
        MPI_Wait(&requests[i], MPI_STATUS_IGNORE);
      }
  }
  must_be_over(requests);
}

/* MPICH 4.0 loses persistent collectives in MPI_Waitany, Waitsome and most forms of MPI_Test by itself. */
static int form_of(int step) {
#if !defined(OPEN_MPI)
  static const int good[] = {0, 1, 6};
  if (persistent) return good[step % 3];
#endif
  return step % kForms;
}

/* The tensors', then the loss's. */
static void start(int step, MPI_Request* requests, double* loss, double* all) {
  if (persistent) {
    if (step == 0) {
      for (int t = 0; t < kTensors; ++t) {
        const void* from = t == kTensors - 1 ? MPI_IN_PLACE : gradient[t];
        AllreduceInit(from, sum[t], kParameters, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, MPI_INFO_NULL,
                      &requests[t]);
      }
      AllreduceInit(loss, all, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD, MPI_INFO_NULL, &requests[kTensors]);
    }
    memcpy(sum[kTensors - 1], gradient[kTensors - 1], sizeof(sum[0]));
    MPI_Start(&requests[0]);
    MPI_Startall(kTensors, &requests[1]);
    calls[kPersistent] += kTensors + 1;
    return;
  }
  for (int t = 0; t < kTensors; ++t) {
    const void* from = step % 3 == 0 ? MPI_IN_PLACE : gradient[t];
    if (step % 3 == 0) memcpy(sum[t], gradient[t], sizeof(sum[t]));
    MPI_Iallreduce(from, sum[t], kParameters, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &requests[t]);
  }
  MPI_Iallreduce(loss, all, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD, &requests[kTensors]);
  calls[kNonblocking] += kTensors + 1;
}

static void step_once(int step) {
  const int word = step, next = (rank + 1) % size, previous = (rank + size - 1) % size;
  static double loss, all;
  static MPI_Request requests[kCalls];
  double exact;
  int token = -1;
  loss = 1.0 / (rank + step + 3);
  for (int t = 0; t <= kTensors; ++t) {
    for (int i = 0; i < kParameters; ++i) gradient[t][i] = weight[t][i] - target(rank, t, i);
  }
  /* Rank 0 starts first, and hands the word on between its starts and its waits. */
  if (step % 2 == 1 && rank > 0) {
    MPI_Recv(&token, 1, MPI_INT, previous, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    if (token != word) fail("a message");
  }
  start(step, requests, &loss, &all);
  if (step % 2 == 1 && rank < size - 1) MPI_Send(&word, 1, MPI_INT, next, 7, MPI_COMM_WORLD);
  complete(requests, form_of(step));
  MPI_Allreduce(gradient[kTensors], sum[kTensors], kParameters, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  ++calls[kBlocking];
  PMPI_Allreduce(&loss, &exact, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  if (fabs(all - exact) > 1e-12) fail("a sum in double precision");
  if (persistent && step == kSteps - 1) {
    for (int i = 0; i <= kTensors; ++i) MPI_Request_free(&requests[i]);
  }
  const float rate = 0.05f * powf(0.985f, (float)step);
  for (int t = 0; t <= kTensors; ++t) {
    for (int i = 0; i < kParameters; ++i) {
      velocity[t][i] = 0.5f * velocity[t][i] + sum[t][i] / (float)size;
      weight[t][i] -= rate * velocity[t][i];
    }
  }
}

int main(int argc, char** argv) {
  int multiple = 0;
  for (int i = 1; i < argc; ++i) {
    persistent |= strcmp(argv[i], "persistent") == 0;
    multiple |= strcmp(argv[i], "multiple") == 0;
  }
  if (multiple) {
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  } else {
    MPI_Init(&argc, &argv);
  }
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  for (int step = 0; step < kSteps; ++step) step_once(step);
  double squares = 0;
  for (int t = 0; t <= kTensors; ++t) {
    for (int i = 0; i < kParameters; ++i) {
      double mean = 0;
      for (int r = 0; r < size; ++r) mean += target(r, t, i) / size;
      squares += (weight[t][i] - mean) * (weight[t][i] - mean);
    }
  }
  static float first[kTensors + 1][kParameters];
  memcpy(first, weight, sizeof(weight));
  PMPI_Bcast(first, (kTensors + 1) * kParameters, MPI_FLOAT, 0, MPI_COMM_WORLD);
  same(first, weight, sizeof(weight), "the parameters of rank 0");
  if (rank == 0) printf("distance %.6f\n", sqrt(squares / ((kTensors + 1) * kParameters)));
  print_calls();
  MPI_Finalize();
  return 0;
}
