# The C library as an installed thing: libdeepseek_det.{so,a}, dd.h with the headers that it
# includes, and what pkg-config and find_package() need. Included where DD_LIBRARY is on.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# The shared library is made of the static one's objects; it shows what begins with dd_, no more.
set(map ${CMAKE_CURRENT_BINARY_DIR}/exports.map)
file(WRITE ${map} "{ global: dd_*; local: *; };\n")
add_library(dd_shared SHARED $<TARGET_OBJECTS:dd_core> ${DD_LEVEL_OBJECTS})
target_link_libraries(dd_shared PRIVATE Threads::Threads m)
target_link_options(dd_shared PRIVATE LINKER:--version-script=${map} LINKER:-Bsymbolic-functions
                                      LINKER:--no-undefined)
set_target_properties(dd_shared PROPERTIES OUTPUT_NAME deepseek_det LINKER_LANGUAGE C
                      VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
set_target_properties(dd_core PROPERTIES OUTPUT_NAME deepseek_det)
install(TARGETS dd_shared dd_core LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
                                  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})

# dd.h and all that it includes, directly or not; the rest is the core's own affair.
set(waiting dd.h)
set(seen)
while(waiting)
  list(POP_FRONT waiting header)
  list(APPEND seen ${header})
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES csrc/${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/deepseek_det/${folder})
  file(STRINGS csrc/${header} lines REGEX "^#include \"")
  foreach(line IN LISTS lines)
    string(REGEX REPLACE "^#include \"([^\"]*)\".*" "\\1" included ${line})
    if(NOT included IN_LIST seen AND NOT included IN_LIST waiting)
      list(APPEND waiting ${included})
    endif()
  endforeach()
endwhile()

configure_package_config_file(
  cmake/deepseek_detConfig.cmake.in deepseek_detConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/deepseek_det
  PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(deepseek_detConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/deepseek_detConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/deepseek_detConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/deepseek_det)

# The prefix is found from the file's own place, so an installed tree may be moved.
file(RELATIVE_PATH up /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(cmake/deepseek_det.pc.in deepseek_det.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/deepseek_det.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
