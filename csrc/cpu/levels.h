// Scores of candidates by sketches of sixteen levels: coordinates of the rows rounded to four bits,
// met by those of a query, rounded to eight. All sums are of integers, so that every instruction
// set has the same.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/simd.h"

namespace hashdl::cpu {

/// Levels that a coordinate of a row has, and coordinates that a word of its sketch has.
inline constexpr int32_t kLevels = 16, kLevelsInWord = 8;
/// The largest of a query's integers, and the least of its coordinates that count for more than 0.
inline constexpr float kQueryLevel = 127.0f, kQueryFloor = 0x1p-100f;

/// One query: coordinate k is about scale times the integer at k / 2 of `even` or `odd`.
struct LevelQuery {
  /// Of `count` coordinates, a multiple of 8. Where one is not finite, so is no score.
  LevelQuery(const float* coordinates, int64_t count);

  std::vector<int8_t> even, odd;  ///< whole blocks of 32, which 0 fills up
  float scale;
  int32_t sum = 0;  ///< of all integers
};

template <typename Float>
struct LevelScores {
  const LevelQuery* query;
  const int32_t* sketches;    ///< (N, W): bits 4 k to 4 k + 4 of word w are level 8 w + k
  const Float* norms;         ///< (N), what a row's levels are multiplied by
  const int32_t* candidates;  ///< (C), -1 = none
  Float* scores;              ///< (C), written: 0 where there is none
  int64_t W, C;
};

template <typename Float>
struct LevelKernels {
  void (*scores)(const LevelScores<Float>&);
};

HASHDL_DECLARE_TABLE(LevelKernels, level_kernels)

}  // namespace hashdl::cpu
