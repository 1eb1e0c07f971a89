// A sample's rows in blocks, for kernels that read rows of a weight. Included by sources in
// SIMD_SOURCES (setup.py) alone.
#pragma once

#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {

// Rows handled together: enough independent sums to hide the latency of a fused multiply-add.
inline constexpr int kRows = 4;
// Rows ahead of the one in work that are asked for.
inline constexpr int64_t kAhead = 2 * kRows;

template <typename T>
HASHDL_INLINE void prefetch_ahead(const T* weight, const int32_t* rows, int64_t a, int64_t A,
                                  int64_t d, int64_t width) {
  const int64_t end = a + kAhead + kRows < A ? a + kAhead + kRows : A;
  for (int64_t i = a + kAhead; i < end; ++i) {
    if (rows[i] >= 0) prefetch_row(weight + static_cast<int64_t>(rows[i]) * d, width);
  }
}

/// The rows of one sample in blocks of kRows: body(a, pointers, used). A padded slot has the
/// pointer of a row that is used, so that every block has the same shape; blocks of padding are
/// passed over. Rows are d elements apart; of those to come, the first `width` are fetched ahead.
template <typename T, typename Body>
HASHDL_INLINE void for_row_blocks(const T* weight, const int32_t* rows, int64_t A, int64_t d,
                                  int64_t width, const Body& body) {
  for (int64_t a = 0; a < A; a += kRows) {
    prefetch_ahead(weight, rows, a, A, d, width);
    const T* w[kRows];
    bool used[kRows];
    bool any = false;
    for (int r = 0; r < kRows; ++r) {
      used[r] = a + r < A && rows[a + r] >= 0;
      any |= used[r];
    }
    // A padded slot repeats a row of the block: in cache already, and its result is dropped.
    const T* stand_in = weight;
    for (int r = 0; r < kRows; ++r) {
      if (used[r]) stand_in = weight + static_cast<int64_t>(rows[a + r]) * d;
    }
    for (int r = 0; r < kRows; ++r) {
      w[r] = used[r] ? weight + static_cast<int64_t>(rows[a + r]) * d : stand_in;
    }
    if (any) body(a, w, used);
  }
}

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
