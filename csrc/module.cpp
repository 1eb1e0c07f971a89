// hashdl._C: what this build is and which instruction set runs. Importing it registers the
// kernels (the HASHDL_KERNELS blocks of csrc/ops). No tensor crosses this module.
#include <pybind11/pybind11.h>

#include "cpu/simd.h"
#include "ops/gpu.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["compiler"] = __VERSION__;
  info["cxx_standard"] = static_cast<long>(__cplusplus);
  info["cuda"] = hashdl::ops::kCuda;
  info["simd_max"] = hashdl::cpu::simd_level_name(hashdl::cpu::max_simd_level());
  info["simd"] = hashdl::cpu::simd_level_name(hashdl::cpu::simd_level());
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of hashdl.";
  m.def("build_info", &build_info, "Compiler, CUDA support and instruction sets of this build.");
  m.def(
      "simd_level", [] { return hashdl::cpu::simd_level_name(hashdl::cpu::simd_level()); },
      "Name of the instruction set in force.");
  m.def(
      "set_simd_level", &hashdl::cpu::set_simd_level, py::arg("name"),
      "Run the kernels of this instruction set from now on; ValueError when it is not available.");
}
