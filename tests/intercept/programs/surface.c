/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole surface in C: every form, type and kind of communicator, each compared with PMPI_.
 */
#include "tests/intercept/programs/check.h"

enum { kCount = 5000 };
static float send[kCount], got[kCount], wanted[kCount];

static void blocking(MPI_Comm comm, int seed) {
  fill(send, kCount, seed);
  MPI_Allreduce(send, got, kCount, MPI_FLOAT, MPI_SUM, comm);
  PMPI_Allreduce(send, wanted, kCount, MPI_FLOAT, MPI_SUM, comm);
  ++calls[kBlocking];
  same(got, wanted, sizeof(got), "blocking sum");
}

static void in_place(MPI_Comm comm) {
  fill(got, kCount, 1);
  memcpy(wanted, got, sizeof(got));
  MPI_Allreduce(MPI_IN_PLACE, got, kCount, MPI_FLOAT, MPI_SUM, comm);
  PMPI_Allreduce(MPI_IN_PLACE, wanted, kCount, MPI_FLOAT, MPI_SUM, comm);
  ++calls[kBlocking];
  same(got, wanted, sizeof(got), "in place");
}

static void other_types(MPI_Comm comm) {
  double a[100], b[100], c[100];
  int i[100], j[100], k[100];
  for (int n = 0; n < 100; ++n) {
    a[n] = (rank + 1) / (double)(n + 3);
    i[n] = rank * 1000 + n;
  }
  MPI_Allreduce(a, b, 100, MPI_DOUBLE, MPI_SUM, comm);
  PMPI_Allreduce(a, c, 100, MPI_DOUBLE, MPI_SUM, comm);
  same(b, c, sizeof(b), "double");
  MPI_Allreduce(i, j, 100, MPI_INT, MPI_MAX, comm);
  PMPI_Allreduce(i, k, 100, MPI_INT, MPI_MAX, comm);
  same(j, k, sizeof(j), "int max");
  MPI_Allreduce(NULL, NULL, 0, MPI_FLOAT, MPI_SUM, comm);
  calls[kBlocking] += 3;
}

/* Not commutative on purpose: keeps the first of the pair and adds 1 for each step. */
static void keep(void* in, void* inout, int* count, MPI_Datatype* type) {
  float* a = in;
  float* b = inout;
  int bytes;
  PMPI_Type_size(*type, &bytes);
  for (int i = 0; i < *count * bytes / (int)sizeof(float); ++i) b[i] = a[i] + 1 - b[i] / 3;
}

static void own_types_and_operations(MPI_Comm comm) {
  MPI_Op op;
  MPI_Datatype pair;
  MPI_Op_create(keep, 0, &op);
  MPI_Type_contiguous(2, MPI_FLOAT, &pair);
  MPI_Type_commit(&pair);
  fill(send, kCount, 2);
  MPI_Allreduce(send, got, kCount, MPI_FLOAT, op, comm);
  PMPI_Allreduce(send, wanted, kCount, MPI_FLOAT, op, comm);
  same(got, wanted, sizeof(got), "own operation");
  MPI_Allreduce(send, got, kCount / 2, pair, op, comm);
  PMPI_Allreduce(send, wanted, kCount / 2, pair, op, comm);
  same(got, wanted, sizeof(got), "derived type");
  calls[kBlocking] += 2;
  MPI_Type_free(&pair);
  MPI_Op_free(&op);
}

static void nonblocking(MPI_Comm comm) {
  enum { kRequests = 10 };
  static float in[kRequests][500], out[kRequests][500], ref[kRequests][500];
  MPI_Request requests[kRequests];
  for (int i = 0; i < kRequests; ++i) {
    fill(in[i], 500, i);
    MPI_Iallreduce(in[i], out[i], 500, MPI_FLOAT, MPI_SUM, comm, &requests[i]);
    ++calls[kNonblocking];
  }
  int done = 0, index = 0, indices[kRequests];
  MPI_Wait(&requests[0], MPI_STATUS_IGNORE);
  for (done = 0; !done;) MPI_Test(&requests[1], &done, MPI_STATUS_IGNORE);
  MPI_Waitany(2, &requests[2], &index, MPI_STATUS_IGNORE);
  for (int left = 2; left > 0;) {
    MPI_Testsome(2, &requests[4], &done, indices, MPI_STATUSES_IGNORE);
    if (done != MPI_UNDEFINED) left -= done;
  }
  for (done = 0; !done;) MPI_Testany(1, &requests[6], &index, &done, MPI_STATUS_IGNORE);
  MPI_Waitall(kRequests, requests, MPI_STATUSES_IGNORE);
  for (int i = 0; i < kRequests; ++i) {
    if (requests[i] != MPI_REQUEST_NULL) fail("a request that was waited for is still there");
    PMPI_Iallreduce(in[i], ref[i], 500, MPI_FLOAT, MPI_SUM, comm, &requests[i]);
  }
  PMPI_Waitall(kRequests, requests, MPI_STATUSES_IGNORE);
  same(out, ref, sizeof(out), "nonblocking");
}

static void persistent(MPI_Comm comm) {
  MPI_Request requests[3];
  MPI_Comm mine;
  static float ping[100], pong[100];
  MPI_Comm_dup(comm, &mine);
  AllreduceInit(send, got, kCount, MPI_FLOAT, MPI_SUM, mine, MPI_INFO_NULL, &requests[0]);
  AllreduceInit(MPI_IN_PLACE, ping, 100, MPI_FLOAT, MPI_MAX, mine, MPI_INFO_NULL, &requests[1]);
  for (int step = 0; step < 5; ++step) {
    fill(send, kCount, step);
    MPI_Start(&requests[0]);
    MPI_Wait(&requests[0], MPI_STATUS_IGNORE);
    PMPI_Allreduce(send, wanted, kCount, MPI_FLOAT, MPI_SUM, mine);
    same(got, wanted, sizeof(got), "persistent");
    fill(ping, 100, step);
    memcpy(pong, ping, sizeof(ping));
    MPI_Startall(2, requests);
    MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
    PMPI_Allreduce(MPI_IN_PLACE, pong, 100, MPI_FLOAT, MPI_MAX, mine);
    same(ping, pong, sizeof(ping), "persistent in place");
    calls[kPersistent] += 3;
  }
  MPI_Request_free(&requests[0]);
  MPI_Request_free(&requests[1]);
  /* Starts of other requests do not count, whatever handle they got. */
  int message = rank, other = -1;
  MPI_Send_init(&message, 1, MPI_INT, (rank + 1) % size, 0, mine, &requests[0]);
  MPI_Recv_init(&other, 1, MPI_INT, (rank + size - 1) % size, 0, mine, &requests[1]);
  MPI_Startall(2, requests);
  MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
  if (other != (rank + size - 1) % size) fail("persistent send");
  MPI_Request_free(&requests[0]);
  MPI_Request_free(&requests[1]);
  MPI_Comm_free(&mine);
}

static void large_counts(MPI_Comm comm) {
#if MPI_VERSION >= 4
  MPI_Request request;
  fill(send, kCount, 3);
  PMPI_Allreduce(send, wanted, kCount, MPI_FLOAT, MPI_SUM, comm);
  MPI_Allreduce_c(send, got, (MPI_Count)kCount, MPI_FLOAT, MPI_SUM, comm);
  same(got, wanted, sizeof(got), "large count");
  MPI_Iallreduce_c(send, got, (MPI_Count)kCount, MPI_FLOAT, MPI_SUM, comm, &request);
  MPI_Wait(&request, MPI_STATUS_IGNORE);
  same(got, wanted, sizeof(got), "large count, nonblocking");
  ++calls[kBlocking];
  ++calls[kNonblocking];
#else
  (void)comm;
#endif
}

static void communicators(void) {
  MPI_Comm comm, half;
  MPI_Group world;
  MPI_Request request;
  MPI_Comm_group(MPI_COMM_WORLD, &world);
  for (int i = 0; i < 30; ++i) {
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    blocking(comm, i);
    MPI_Comm_free(&comm);
    MPI_Comm_split(MPI_COMM_WORLD, rank % 2, rank, &half);
    blocking(half, i);
    other_types(half);
    MPI_Comm_free(&half);
  }
  MPI_Comm_create(MPI_COMM_WORLD, world, &comm);
  MPI_Comm_set_name(comm, "made by group");
  blocking(comm, 1);
  MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &half);
  blocking(half, 1);
  MPI_Comm_free(&half);
  MPI_Comm_idup(comm, &half, &request);
  MPI_Wait(&request, MPI_STATUS_IGNORE);
  blocking(half, 1);
  MPI_Comm_disconnect(&half);
  MPI_Comm_free(&comm);
  MPI_Group_free(&world);
  blocking(MPI_COMM_SELF, 1);
}

static void intercommunicators(void) {
  MPI_Comm half, inter, merged;
  MPI_Comm_split(MPI_COMM_WORLD, rank % 2, rank, &half);
  MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, 1 - rank % 2, 7, &inter);
  blocking(inter, 4);
  MPI_Intercomm_merge(inter, rank % 2, &merged);
  blocking(merged, 5);
  MPI_Comm_free(&merged);
  MPI_Comm_free(&inter);
  MPI_Comm_free(&half);
}

static int handled;
static void handler(MPI_Comm* comm, int* code, ...) {
  (void)comm;
  (void)code;
  ++handled;
}

/* Errors are the same, and reach the same handler, as without the library; failed calls do not count.
 * Debian's MPICH checks no arguments. */
static void errors(void) {
#if defined(OPEN_MPI)
  MPI_Comm comm;
  MPI_Errhandler own;
  float x = 0, y = 0;
  MPI_Comm_dup(MPI_COMM_WORLD, &comm);
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  const int code = MPI_Allreduce(&x, &y, -1, MPI_FLOAT, MPI_SUM, comm);
  const int reference = PMPI_Allreduce(&x, &y, -1, MPI_FLOAT, MPI_SUM, comm);
  int a, b;
  MPI_Error_class(code, &a);
  MPI_Error_class(reference, &b);
  if (a != b || a == MPI_SUCCESS) fail("another error");
  MPI_Comm_create_errhandler(handler, &own);
  MPI_Comm_set_errhandler(comm, own);
  MPI_Allreduce(&x, &y, 1, MPI_DATATYPE_NULL, MPI_SUM, comm);
  if (handled != 1) fail("the error handler was not called once");
  MPI_Errhandler_free(&own);
  MPI_Comm_free(&comm);
#else
  (void)handler;
#endif
}

static int copied, deleted;
static int copy(MPI_Comm c, int k, void* e, void* in, void* out, int* flag) {
  (void)c, (void)k, (void)e;
  *(void**)out = in;
  *flag = 1;
  ++copied;
  return MPI_SUCCESS;
}
static int delete (MPI_Comm c, int k, void* v, void* e) {
  (void)c, (void)k, (void)v, (void)e;
  ++deleted;
  return MPI_SUCCESS;
}

/* The program's own attributes are copied and deleted by the program's calls alone. */
static void attributes(void) {
  int key;
  MPI_Comm comm;
  MPI_Comm_create_keyval(copy, delete, &key, NULL);
  MPI_Comm_set_attr(MPI_COMM_WORLD, key, &key);
  blocking(MPI_COMM_WORLD, 1);
  MPI_Comm_dup(MPI_COMM_WORLD, &comm);
  blocking(comm, 1);
  if (copied != 1 || deleted != 0) fail("attributes: somebody else duplicated");
  MPI_Comm_free(&comm);
  if (copied != 1 || deleted != 1) fail("attributes: not deleted once");
  MPI_Comm_delete_attr(MPI_COMM_WORLD, key);
  MPI_Comm_free_keyval(&key);
}

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  for (int i = 0; i < 3; ++i) blocking(MPI_COMM_WORLD, i);
  in_place(MPI_COMM_WORLD);
  other_types(MPI_COMM_WORLD);
  own_types_and_operations(MPI_COMM_WORLD);
  nonblocking(MPI_COMM_WORLD);
  persistent(MPI_COMM_WORLD);
  large_counts(MPI_COMM_WORLD);
  communicators();
  if (size > 1) intercommunicators();
  errors();
  attributes();
  print_calls();
  MPI_Finalize();
  return 0;
}
