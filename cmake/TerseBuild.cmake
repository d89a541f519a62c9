# SPDX-License-Identifier: Apache-2.0
#
# How everything here is compiled, and the functions that the folders' CMakeLists.txt use.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 99)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, Debug, RelWithDebInfo" FORCE)
endif()

# Programs and plug-ins find libterse.so beside them, in the build tree and when installed. The build tree has
# the same paths as an installation: a path of its own would be padded with ':', and an empty part of it is the
# folder that a program happens to be started in.
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
set(CMAKE_INSTALL_RPATH "$ORIGIN;$ORIGIN/../lib;$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
list(REMOVE_DUPLICATES CMAKE_INSTALL_RPATH)
set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)

add_library(terse_flags INTERFACE)
# Products are never fused with sums: the bytes of every target and compiler are those of the scalar
# reference (docs/wire_format.md).
target_compile_options(terse_flags INTERFACE -ffp-contract=off -Wall -Wextra -Wshadow -Wno-unused-parameter
                       -Wnon-virtual-dtor)
# GCC 12 warns of overlapping copies inside its own std::string (GCC bug 105329).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(terse_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(TERSE_WERROR)
  target_compile_options(terse_flags INTERFACE -Werror)
endif()
target_include_directories(terse_flags INTERFACE ${PROJECT_SOURCE_DIR})

# One sanitizer, or several that agree, for everything of a build (see CMakePresets.json).
set(TERSE_SANITIZE "" CACHE STRING "address | undefined | thread | fuzzer-no-link,address,undefined")
if(TERSE_SANITIZE)
  add_compile_options(-fsanitize=${TERSE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g)
  add_link_options(-fsanitize=${TERSE_SANITIZE})
endif()

# terse_library(NAME SOURCES... [DEPENDS...]): an internal static library of one unit of the layer table.
function(terse_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC ${ARG_DEPENDS} PRIVATE terse_flags)
  target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
endfunction()

# terse_test(NAME SOURCES... [DEPENDS...] [LABELS...] [TIMEOUT s] [DATA...]): a GoogleTest program, one
# CTest entry.
function(terse_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPENDS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS} GTest::gmock_main terse_flags)
  target_compile_definitions(${name} PRIVATE TERSE_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                             TERSE_BINARY_DIR="${PROJECT_BINARY_DIR}")
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()

include(TerseMpiTest)
