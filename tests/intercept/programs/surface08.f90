! SPDX-License-Identifier: Apache-2.0
!
! Fortran 2008 over `use mpi_f08`: with and without the error argument, sections of arrays, in place,
! nonblocking and persistent, each compared bit for bit with PMPI_ in C.
program surface
  use mpi_f08
  implicit none
  integer, parameter :: n = 5000
  real :: a(n), b(n), c(n)
  integer :: ierr, me, np, i, step
  integer :: blocking = 0, nonblocking = 0, persistent = 0
  type(MPI_Comm) :: comm
  type(MPI_Request) :: request, requests(1)
  call MPI_Init()
  call MPI_Comm_rank(MPI_COMM_WORLD, me)
  call MPI_Comm_size(MPI_COMM_WORLD, np)
  ierr = MPI_SUCCESS
  do step = 1, 4
    a = [(real(me + 1) / real(i + step), i = 1, n)]
    call reference(a, c, n, MPI_REAL%MPI_VAL, MPI_SUM%MPI_VAL, MPI_COMM_WORLD%MPI_VAL)
    b = a
    call MPI_Allreduce(MPI_IN_PLACE, b, n, MPI_REAL, MPI_SUM, MPI_COMM_WORLD)
    call check()
    call MPI_Comm_dup(MPI_COMM_WORLD, comm)
    call MPI_Allreduce(a, b, n, MPI_REAL, MPI_SUM, comm, ierr)
    call check()
    call MPI_Allreduce(a(1:n/2), b(1:n/2), n / 2, MPI_REAL, MPI_SUM, comm, ierr)
    call MPI_Allreduce(a(n/2+1:), b(n/2+1:), n / 2, MPI_REAL, MPI_SUM, comm)
    call check()
    call MPI_Iallreduce(a, b, n, MPI_REAL, MPI_SUM, comm, request)
    call MPI_Wait(request, MPI_STATUS_IGNORE)
    call check()
    call MPI_Comm_free(comm)
    blocking = blocking + 4
    nonblocking = nonblocking + 1
  end do
#ifdef ALLREDUCE_INIT
  call ALLREDUCE_INIT(a, b, n, MPI_REAL, MPI_SUM, MPI_COMM_WORLD, MPI_INFO_NULL, requests(1))
  do step = 1, 4
    if (step > 2) call MPI_Startall(1, requests)
    if (step <= 2) call MPI_Start(requests(1))
    call MPI_Wait(requests(1), MPI_STATUS_IGNORE)
    call check()
    persistent = persistent + 1
  end do
  call MPI_Request_free(requests(1))
#endif
  if (me == 0) print '(a,i0,a,i0,a,i0,a)', 'expect {"blocking": ', blocking * np, ', "nonblocking": ', &
    nonblocking * np, ', "persistent": ', persistent * np, '}'
  call MPI_Finalize()
contains
  subroutine check()
    if (ierr /= MPI_SUCCESS) call MPI_Abort(MPI_COMM_WORLD, 2)
    if (any(transfer(b, [0]) /= transfer(c, [0]))) call MPI_Abort(MPI_COMM_WORLD, 3)
    b = -1
  end subroutine
end program
