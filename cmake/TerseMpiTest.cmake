# SPDX-License-Identifier: Apache-2.0
#
# terse_mpi_test(NAME test TARGET program RANKS n MPI openmpi|mpich [ARGS ...] [LAUNCHER_ARGS ...]
#                [TIMEOUT s] [LABELS ...]): one CTest entry that runs the program on n ranks of this
# machine under the launcher of that MPI. Nothing is added where the MPI was not found.
#
# Ranks may outnumber cores, so they yield when idle and are not bound; shared memory is used without
# cross-process copies, which many containers forbid. The launcher ends the job at the timeout by
# itself: killed from outside, it would leave ranks behind.
function(terse_mpi_test)
  cmake_parse_arguments(ARG "" "NAME;TARGET;RANKS;MPI;TIMEOUT" "ARGS;LAUNCHER_ARGS;LABELS" ${ARGN})
  if(NOT TARGET terse_${ARG_MPI})
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  terse_mpi_launcher(${ARG_MPI} launcher)
  add_test(NAME ${ARG_NAME} COMMAND ${launcher} ${ARG_LAUNCHER_ARGS} -n ${ARG_RANKS}
                                    $<TARGET_FILE:${ARG_TARGET}> ${ARG_ARGS})
  math(EXPR last_resort "${ARG_TIMEOUT} + 10")
  set_tests_properties(${ARG_NAME} PROPERTIES
    TIMEOUT ${last_resort}
    PROCESSORS ${ARG_RANKS}
    LABELS "${ARG_LABELS};mpi"
    ENVIRONMENT "TERSE_PLUGIN_PATH=${CMAKE_LIBRARY_OUTPUT_DIRECTORY};MPIEXEC_TIMEOUT=${ARG_TIMEOUT}")
endfunction()

# terse_mpi_launcher(<mpi> <out>): the command line that starts ranks on this machine, but for "-n".
function(terse_mpi_launcher mpi out)
  if(mpi STREQUAL openmpi)
    set(${out} ${TERSE_OPENMPI_MPIRUN} --allow-run-as-root --oversubscribe --bind-to none
        --mca mpi_yield_when_idle 1 --mca btl_vader_single_copy_mechanism none PARENT_SCOPE)
  else()
    set(${out} ${TERSE_MPICH_MPIRUN} PARENT_SCOPE)
  endif()
endfunction()
