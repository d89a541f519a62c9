// SPDX-License-Identifier: Apache-2.0
//
// What the generated wrappers do around the next definition of their function: one template for each kind.
// `forward` makes the original call with the original arguments; a Fortran one takes the address for the
// error code, because mpi_f08 programs may leave that argument out.
#ifndef TERSE_RUNTIME_INTERCEPT_WRAPPER_H_
#define TERSE_RUNTIME_INTERCEPT_WRAPPER_H_

#include <mpi.h>
#if __has_include(<mpi-ext.h>)
#include <mpi-ext.h>
#endif

#include <cstdint>
#include <vector>

#include "runtime/intercept/forensics.h"
#include "runtime/intercept/library.h"
#include "runtime/intercept/observer.h"
#include "runtime/intercept/requests.h"
#include "runtime/intercept/signature.h"
#include "runtime/intercept/tick.h"

#define TERSE_EXPORT extern "C" __attribute__((visibility("default")))

namespace terse::intercept {

// `raised` is the same call with MPI_THREAD_MULTIPLE.
template <typename Forward, typename Raised>
int Init(const Forward& forward, const Raised& raised) {
  const Frame frame;
  if (!frame.observes()) return forward();
  Initializing initializing;
  const int result = raising_threads.load(std::memory_order_relaxed) ? raised() : forward();
  if (result == MPI_SUCCESS) initializing.Succeeded();
  return result;
}

// An all-reduce that is looked at.
template <typename Forward>
int Observe(AllReduceCall call, const Forward& forward) {
  const int64_t begin = Now();
  // Once for all who ask.
  call.signature = MakeSignature(call.count, call.type, call.op, call.form);
  Communicator* const communicator = FindCommunicator(call.comm);
  Whereabouts* const where = communicator != nullptr ? communicator->where().get() : nullptr;
  Inside inside(where, call.signature, begin);
  int result = MPI_SUCCESS;
  if (!compressing.load(std::memory_order_relaxed) || !TakeCall(communicator, call, &result)) {
    result = forward();
  }
  const int64_t ticks = Now() - begin;
  inside.Leave(result == MPI_SUCCESS, begin + ticks);
  if (result != MPI_SUCCESS || communicator == nullptr) return result;
  AddDerivedSize(call.type, &call.signature);
  communicator->Record(call.signature, call.binding, ticks);
  if (where != nullptr && call.request != nullptr) AddStarted(*communicator, call.signature, *call.request);
  return result;
}

template <typename Forward>
int AllReduce(const AllReduceCall& call, const Forward& forward) {
  const Frame frame;
  return frame.observes() ? Observe(call, forward) : forward();
}

template <typename Forward>
int AllReduceInit(const AllReduceCall& call, const Forward& forward) {
  const Frame frame;
  const int result = forward();
  if (frame.observes() && result == MPI_SUCCESS) AddPersistent(call);
  return result;
}

// `handle` turns the i-th of the program's requests into MPI's.
template <typename Forward, typename Handle>
int StartThen(int count, const Handle& handle, const Forward& forward) {
  const Frame frame;
  if (!frame.observes() || known_requests.load(std::memory_order_relaxed) == 0) return forward();
  const int64_t begin = Now();
  int result = forward();
  const int64_t ticks = count > 0 ? (Now() - begin) / count : 0;
  for (int i = 0; i < count && result == MPI_SUCCESS; ++i) result = NoteStarted(handle(i), ticks);
  return result;
}

template <typename Forward>
int Start(int count, MPI_Request* requests, const Forward& forward) {
  return StartThen(
      count, [&](int i) { return requests[i]; }, forward);
}

// `freed` is asked for the request before it is gone.
template <typename Forward, typename Handle>
int FreeThen(const Handle& freed, const Forward& forward) {
  const Frame frame;
  if (!frame.observes() || known_requests.load(std::memory_order_relaxed) == 0) return forward();
  const uintptr_t request = Bits(freed());
  const int result = forward();
  if (result == MPI_SUCCESS) ForgetRequest(request);
  return result;
}

template <typename Forward>
int RequestFree(MPI_Request* request, const Forward& forward) {
  return FreeThen([&] { return *request; }, forward);
}

// `waits`: it returns when one or all of the requests are over; else it tests them.
template <typename Forward, typename Handle>
int CompleteThen(bool waits, int count, const Handle& handle, const Forward& forward) {
  const Frame frame;
  if (!frame.observes() || known_requests.load(std::memory_order_relaxed) == 0) return forward();
  std::vector<MPI_Request> requests;
  for (int i = 0; i < count; ++i) requests.push_back(handle(i));
  Completing completing(waits, requests);
  const int result = forward();
  completing.Over(handle);
  return result;
}

template <typename Forward>
int Complete(bool waits, int count, MPI_Request* requests, const Forward& forward) {
  return CompleteThen(
      waits, count, [&](int i) { return requests[i]; }, forward);
}

// Makes a Fortran call and returns its error code, which reaches the program where it asked for it.
template <typename Forward>
int CallFortran(MPI_Fint* ierror, const Forward& forward) {
  MPI_Fint error = MPI_SUCCESS;
  forward(ierror != nullptr ? ierror : &error);
  return static_cast<int>(ierror != nullptr ? *ierror : error);
}

template <typename Forward, typename Raised>
void FortranInit(MPI_Fint* ierror, const Forward& forward, const Raised& raised) {
  Init([&] { return CallFortran(ierror, forward); }, [&] { return CallFortran(ierror, raised); });
}

// A buffer as Fortran passes it: its address, or (mpi_f08) a descriptor of it.
struct FortranBuffer {
  void* address;
  bool described;

  // Buffers are looked at where calls are compressed.
  void* ForC() const {
    if (!compressing.load(std::memory_order_relaxed)) return address;
    void* const at = described ? DescribedAddress(address) : address;
    return FortranInPlace(at) ? MPI_IN_PLACE : at;
  }
};

// With `request`, MPI's handle of it. Null for a blocking call.
inline AllReduceCall FortranCall(Binding binding, Form form, FortranBuffer send, FortranBuffer recv,
                                 int64_t count, MPI_Fint type, MPI_Fint op, MPI_Fint comm,
                                 MPI_Request* request) {
  const Pmpi& pmpi = GetPmpi();
  return {binding,         form,
          send.ForC(),     recv.ForC(),
          count,           pmpi.Type_f2c(type),
          pmpi.Op_f2c(op), pmpi.Comm_f2c(comm),
          request};
}

// `request` is null for a blocking call.
template <typename Forward>
void FortranAllReduce(Binding binding, FortranBuffer send, FortranBuffer recv, int64_t count, MPI_Fint type,
                      MPI_Fint op, MPI_Fint comm, MPI_Fint* request, MPI_Fint* ierror,
                      const Forward& forward) {
  const Frame frame;
  if (!frame.observes()) {
    CallFortran(ierror, forward);
    return;
  }
  const Pmpi& pmpi = GetPmpi();
  const Form form = request == nullptr ? Form::kBlocking : Form::kNonblocking;
  MPI_Request started = pmpi.no_request;
  const AllReduceCall call =
      FortranCall(binding, form, send, recv, count, type, op, comm, request == nullptr ? nullptr : &started);
  const int result = Observe(call, [&] {
    const int forwarded = CallFortran(ierror, forward);
    if (request != nullptr && forwarded == MPI_SUCCESS) started = pmpi.Request_f2c(*request);
    return forwarded;
  });
  if (ierror != nullptr) *ierror = static_cast<MPI_Fint>(result);
  if (started != pmpi.no_request) *request = pmpi.Request_c2f(started);
}

template <typename Forward>
void FortranAllReduceInit(Binding binding, FortranBuffer send, FortranBuffer recv, int64_t count,
                          MPI_Fint type, MPI_Fint op, MPI_Fint comm, MPI_Fint* request, MPI_Fint* ierror,
                          const Forward& forward) {
  const Frame frame;
  const int result = CallFortran(ierror, forward);
  if (!frame.observes() || result != MPI_SUCCESS) return;
  const Pmpi& pmpi = GetPmpi();
  MPI_Request made = pmpi.Request_f2c(*request);
  AddPersistent(FortranCall(binding, Form::kPersistent, send, recv, count, type, op, comm, &made));
  *request = pmpi.Request_c2f(made);
}

template <typename Forward>
void FortranComplete(bool waits, MPI_Fint count, MPI_Fint* requests, MPI_Fint* ierror,
                     const Forward& forward) {
  CompleteThen(
      waits, static_cast<int>(count), [&](int i) { return GetPmpi().Request_f2c(requests[i]); },
      [&] { return CallFortran(ierror, forward); });
}

template <typename Forward>
void FortranStart(MPI_Fint count, MPI_Fint* requests, MPI_Fint* ierror, const Forward& forward) {
  StartThen(
      static_cast<int>(count), [&](int i) { return GetPmpi().Request_f2c(requests[i]); },
      [&] { return CallFortran(ierror, forward); });
}

template <typename Forward>
void FortranRequestFree(MPI_Fint* request, MPI_Fint* ierror, const Forward& forward) {
  FreeThen([&] { return GetPmpi().Request_f2c(*request); }, [&] { return CallFortran(ierror, forward); });
}

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_WRAPPER_H_
