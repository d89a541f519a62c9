C     SPDX-License-Identifier: Apache-2.0
C
C     FORTRAN 77 over mpif.h: blocking, in place, nonblocking and
C     persistent, each compared bit for bit with PMPI_ in C.
      PROGRAM SURFACE
      INCLUDE 'mpif.h'
      INTEGER N
      PARAMETER (N = 5000)
      REAL A(N), B(N), C(N)
      DOUBLE PRECISION D, E
      INTEGER IERR, ME, NP, I, STEP, REQ, COMM
      CALL MPI_INIT(IERR)
      CALL MPI_COMM_RANK(MPI_COMM_WORLD, ME, IERR)
      CALL MPI_COMM_SIZE(MPI_COMM_WORLD, NP, IERR)
      DO 20 STEP = 1, 10
        DO 10 I = 1, N
          A(I) = REAL(ME + 1) / REAL(I + STEP)
          B(I) = A(I)
   10   CONTINUE
        CALL REFERENCE(A, C, N, MPI_REAL, MPI_SUM, MPI_COMM_WORLD)
        CALL MPI_ALLREDUCE(MPI_IN_PLACE, B, N, MPI_REAL, MPI_SUM,
     &                     MPI_COMM_WORLD, IERR)
        CALL CHECK(B, C, N, IERR)
        CALL MPI_ALLREDUCE(A, B, N, MPI_REAL4, MPI_SUM,
     &                     MPI_COMM_WORLD, IERR)
        CALL CHECK(B, C, N, IERR)
   20 CONTINUE
      CALL MPI_COMM_DUP(MPI_COMM_WORLD, COMM, IERR)
      CALL MPI_IALLREDUCE(A, B, N, MPI_REAL, MPI_SUM, COMM, REQ, IERR)
      CALL MPI_WAIT(REQ, MPI_STATUS_IGNORE, IERR)
      CALL CHECK(B, C, N, IERR)
      D = ME
      CALL MPI_ALLREDUCE(D, E, 1, MPI_DOUBLE_PRECISION, MPI_MAX, COMM,
     &                   IERR)
      IF (E .NE. NP - 1) CALL MPI_ABORT(MPI_COMM_WORLD, 1, IERR)
      CALL ALLREDUCE_INIT(A, B, N, MPI_REAL, MPI_SUM, COMM,
     &                    MPI_INFO_NULL, REQ, IERR)
      DO 30 STEP = 1, 3
        CALL MPI_START(REQ, IERR)
        CALL MPI_WAIT(REQ, MPI_STATUS_IGNORE, IERR)
        CALL CHECK(B, C, N, IERR)
   30 CONTINUE
      CALL MPI_REQUEST_FREE(REQ, IERR)
      CALL MPI_COMM_FREE(COMM, IERR)
      IF (ME .EQ. 0) THEN
        WRITE (*, 40) 21 * NP, NP, 3 * NP
      END IF
   40 FORMAT ('expect {"blocking": ', I4, ', "nonblocking": ', I4,
     &        ', "persistent": ', I4, '}')
      CALL MPI_FINALIZE(IERR)
      END

      SUBROUTINE CHECK(B, C, N, IERR)
      INCLUDE 'mpif.h'
      INTEGER N, IERR, I
      REAL B(N), C(N)
      IF (IERR .NE. MPI_SUCCESS) CALL MPI_ABORT(MPI_COMM_WORLD, 2, IERR)
      DO 50 I = 1, N
        IF (B(I) .NE. C(I)) CALL MPI_ABORT(MPI_COMM_WORLD, 3, IERR)
        B(I) = -1
   50 CONTINUE
      END
