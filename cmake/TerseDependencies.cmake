# SPDX-License-Identifier: Apache-2.0
#
# Everything that is found, in one place. deploy/install-deps.sh installs it on Debian 12.

find_package(absl REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(HWY REQUIRED IMPORTED_TARGET libhwy)
if(TERSE_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()

# Both MPIs at once, so not FindMPI, which knows one: each Debian wrapper says its own flags. Gives
# terse_openmpi and terse_mpich (INTERFACE) where there, and TERSE_<MPI>_MPIRUN.
function(terse_find_mpi name wrapper show_compile show_link launcher)
  find_program(TERSE_${name}_WRAPPER ${wrapper})
  find_program(TERSE_${name}_MPIRUN ${launcher})
  if(NOT TERSE_${name}_WRAPPER OR NOT TERSE_${name}_MPIRUN)
    message(STATUS "Terse: ${name} not found (no ${wrapper}); its transport is not built")
    return()
  endif()
  execute_process(COMMAND ${TERSE_${name}_WRAPPER} ${show_compile} OUTPUT_VARIABLE compile
                  OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND ${TERSE_${name}_WRAPPER} ${show_link} OUTPUT_VARIABLE link
                  OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(includes UNIX_COMMAND "${compile}")
  list(FILTER includes INCLUDE REGEX "^-I")
  list(TRANSFORM includes REPLACE "^-I" "")
  separate_arguments(libraries UNIX_COMMAND "${link}")
  list(FILTER libraries INCLUDE REGEX "^-[Ll]")
  # The C interface alone: neither MPI's C++ bindings nor its Fortran library enter our processes.
  list(FILTER libraries EXCLUDE REGEX "cxx")
  string(TOLOWER ${name} lower)
  add_library(terse_${lower} INTERFACE IMPORTED GLOBAL)
  set_target_properties(terse_${lower} PROPERTIES INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${includes}"
                        INTERFACE_INCLUDE_DIRECTORIES "${includes}" INTERFACE_LINK_LIBRARIES "${libraries}")
  set_property(TARGET terse_${lower} PROPERTY INTERFACE_COMPILE_DEFINITIONS "OMPI_SKIP_MPICXX;MPICH_SKIP_MPICXX")
endfunction()
terse_find_mpi(OPENMPI mpicxx.openmpi --showme:compile --showme:link mpirun.openmpi)
terse_find_mpi(MPICH mpicxx.mpich -compile_info -link_info mpirun.mpich)

# The controller: its schema, its server and its store. Each is a program or a plug-in of its own, so a build
# without them is whole but for these.
pkg_check_modules(TERSE_GRPC IMPORTED_TARGET grpc++ protobuf)
pkg_check_modules(TERSE_SQLITE IMPORTED_TARGET sqlite3)
find_package(spdlog QUIET)
find_program(TERSE_PROTOC protoc)
find_program(TERSE_GRPC_PLUGIN grpc_cpp_plugin)
if(TERSE_GRPC_FOUND AND TERSE_SQLITE_FOUND AND spdlog_FOUND AND TERSE_PROTOC AND TERSE_GRPC_PLUGIN)
  set(TERSE_CONTROLLER ON)
else()
  set(TERSE_CONTROLLER OFF)
  message(STATUS "Terse: gRPC, Protobuf, SQLite or spdlog not found; the controller is not built")
endif()
