// Instruction-set levels: which ones this build has, which one runs.
//
// A source listed in SIMD_SOURCES (setup.py) is compiled once per level with HASHDL_SIMD_LEVEL set
// to the level's name; it puts its kernels in the namespace of that name and hands them out as a
// table of function pointers. `choose` picks a table, once per op call, outside every loop.
#pragma once

#include <string>

#ifndef HASHDL_HAS_AVX2
#define HASHDL_HAS_AVX2 0
#endif
#ifndef HASHDL_HAS_AVX512
#define HASHDL_HAS_AVX512 0
#endif

namespace hashdl::cpu {

enum class SimdLevel : int { baseline = 0, avx2 = 1, avx512 = 2 };

/// The level in force: the best one that the build has and the machine runs, capped by the
/// environment variable HASHDL_SIMD (read once) and by set_simd_level.
SimdLevel simd_level();

/// The best level that the build has and the machine runs.
SimdLevel max_simd_level();

/// Throws std::invalid_argument for an unknown name and for a level above max_simd_level().
void set_simd_level(const std::string& name);

std::string simd_level_name(SimdLevel level);

/// The table of the level in force.
template <typename Table>
const Table& choose(const Table& baseline, const Table& avx2, const Table& avx512) {
  switch (simd_level()) {
    case SimdLevel::avx512:
      return avx512;
    case SimdLevel::avx2:
      return avx2;
    default:
      return baseline;
  }
}

}  // namespace hashdl::cpu

/// Declares, for every level that is built, `const TABLE<T>& NAME<T>()` in the level's namespace,
/// and `NAME<T>()` beside them, which answers with the table of the level in force.
#define HASHDL_DECLARE_LEVEL(LEVEL, TABLE, NAME) \
  namespace LEVEL {                              \
  template <typename T>                          \
  const TABLE<T>& NAME();                        \
  }

#if HASHDL_HAS_AVX512 && HASHDL_HAS_AVX2
#define HASHDL_DECLARE_TABLE(TABLE, NAME)                                   \
  HASHDL_DECLARE_LEVEL(baseline, TABLE, NAME)                               \
  HASHDL_DECLARE_LEVEL(avx2, TABLE, NAME)                                   \
  HASHDL_DECLARE_LEVEL(avx512, TABLE, NAME)                                 \
  template <typename T>                                                     \
  const TABLE<T>& NAME() {                                                  \
    return choose(baseline::NAME<T>(), avx2::NAME<T>(), avx512::NAME<T>()); \
  }
#else
#define HASHDL_DECLARE_TABLE(TABLE, NAME)     \
  HASHDL_DECLARE_LEVEL(baseline, TABLE, NAME) \
  template <typename T>                       \
  const TABLE<T>& NAME() {                    \
    return baseline::NAME<T>();               \
  }
#endif
