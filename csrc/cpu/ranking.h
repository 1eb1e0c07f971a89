// The best of scored candidates, found without sorting them.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

namespace hashdl::cpu {

/// The order of a candidate that does not take part: above that of any score.
inline constexpr uint32_t kUnranked = 0xffffffffu;

/// Of which candidates the best consist: orders below `order`, and the first `ties` equal to it.
struct RankThreshold {
  uint32_t order;
  int64_t ties;
};

template <typename Float>
struct RankingKernels {
  /// Room that orders need beyond the candidates: kernels take whole vectors.
  static constexpr int64_t kRoom = 16;

  /// orders[c] = descending_bits(scores[c]) (score_order.h), or kUnranked where candidates[c] is
  /// -1, and in the room beyond C. No scores: all are 0. Returns a number of candidates behind
  /// which there is none.
  int64_t (*order)(const int32_t* candidates, const Float* scores, int64_t C, uint32_t* orders);

  /// The threshold of the `budget` smallest orders; all of them, where there are not so many.
  RankThreshold (*threshold)(const uint32_t* orders, int64_t C, int64_t budget);

  /// Where the orders that are `most` or less stand, ascending, which is `places`; how many. There
  /// is room for one place more than that.
  int64_t (*find_up_to)(const uint32_t* orders, int64_t C, uint32_t most, int32_t* places);
};

HASHDL_DECLARE_TABLE(RankingKernels, ranking_kernels)

}  // namespace hashdl::cpu
