// Rows that a whole batch shares, and their places: a map in global memory.
#pragma once

#include "cuda/row_map.h"

namespace hashdl::cuda {

/// The distinct rows `rows` (T), -1 = padding, numbered by their places.
struct SharedRowMap {
  int32_t* words;
  int64_t slots;
  int64_t T;

  /// Takes the memory. T = 0: none, and it contains nothing.
  static SharedRowMap make(int64_t T, Scratch& scratch);
  void fill(const int32_t* rows, Stream stream) const;

  __device__ bool contains(int32_t row) const {
    return T > 0 && RowMap(words, slots).contains(row);
  }

  /// The place of `row`, or -1.
  __device__ int64_t find(int32_t row) const {
    if (T == 0) return -1;
    RowMap map(words, slots);
    const int64_t slot = map.find(row);
    return slot < 0 ? -1 : static_cast<int64_t>(map.number(slot));
  }
};

}  // namespace hashdl::cuda
