# SPDX-License-Identifier: Apache-2.0
#
# What `cmake --install` puts where: the public headers, libterse.so, the exported package (find_package(Terse)
# gives terse::terse) and terse.pc. The `terse` command and the transport plug-ins install themselves, the latter
# into ${CMAKE_INSTALL_LIBDIR}/terse, where libterse.so looks for them.

include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Terse)

if(TARGET terse)
  install(TARGETS terse EXPORT TerseTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/runtime/client/include/terse
          DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h" PATTERN "*.hpp")
  install(EXPORT TerseTargets NAMESPACE terse:: DESTINATION ${package_dir})

  configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/TerseConfig.cmake.in
                                ${PROJECT_BINARY_DIR}/TerseConfig.cmake
                                INSTALL_DESTINATION ${package_dir})
  # Before 1.0 a minor version may change the API: 0.1.x serves a request for 0.1, and for nothing else.
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/TerseConfigVersion.cmake
                                   COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_BINARY_DIR}/TerseConfig.cmake ${PROJECT_BINARY_DIR}/TerseConfigVersion.cmake
          DESTINATION ${package_dir})

  # terse.pc finds its prefix from where it lies, so an installed tree can be moved.
  cmake_path(RELATIVE_PATH CMAKE_INSTALL_FULL_INCLUDEDIR BASE_DIRECTORY ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig
             OUTPUT_VARIABLE TERSE_PC_INCLUDEDIR)
  configure_file(${CMAKE_CURRENT_LIST_DIR}/terse.pc.in ${PROJECT_BINARY_DIR}/terse.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/terse.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endif()
