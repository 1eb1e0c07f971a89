#include "cpu/simd.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace hashdl::cpu {
namespace {

SimdLevel detect() {
#if HASHDL_HAS_AVX2 && HASHDL_HAS_AVX512
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return SimdLevel::avx512;
  if (avx2) return SimdLevel::avx2;
#endif
  return SimdLevel::baseline;
}

SimdLevel parse(const std::string& name) {
  for (auto level : {SimdLevel::baseline, SimdLevel::avx2, SimdLevel::avx512}) {
    if (simd_level_name(level) == name) return level;
  }
  throw std::invalid_argument("hashdl: SIMD level '" + name +
                              "' is unknown; wanted baseline, avx2 or avx512");
}

SimdLevel initial_level() {
  // HASHDL_SIMD is a cap, not an order: a script that asks for avx512 must still run elsewhere.
  const char* cap = std::getenv("HASHDL_SIMD");
  if (cap == nullptr || *cap == '\0') return max_simd_level();
  return std::min(parse(cap), max_simd_level());
}

std::atomic<SimdLevel>& current() {
  static std::atomic<SimdLevel> level{initial_level()};
  return level;
}

}  // namespace

SimdLevel max_simd_level() {
  static const SimdLevel level = detect();
  return level;
}

SimdLevel simd_level() { return current().load(std::memory_order_relaxed); }

void set_simd_level(const std::string& name) {
  const SimdLevel level = parse(name);
  if (level > max_simd_level()) {
    throw std::invalid_argument("hashdl: SIMD level '" + name +
                                "' is not available here; the best is '" +
                                simd_level_name(max_simd_level()) + "'");
  }
  current().store(level, std::memory_order_relaxed);
}

std::string simd_level_name(SimdLevel level) {
  switch (level) {
    case SimdLevel::avx512:
      return "avx512";
    case SimdLevel::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

}  // namespace hashdl::cpu
