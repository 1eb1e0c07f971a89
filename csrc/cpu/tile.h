// Tiles of a matrix product: so many sums that they stay in registers while rows and columns pass.
#pragma once

#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {

// Rows and vectors of columns of a whole tile: with their operands, 32 registers, or 16.
inline constexpr int kTileRows = kVectorBytes == 64 ? 6 : 4;
inline constexpr int kTileVectors = kVectorBytes == 64 ? 4 : 2;

/// sums[r][v] += x[r] times the v-th vector of `columns`. What a sum is does not depend on how many
/// others stand beside it.
template <int R, int V>
HASHDL_INLINE void add_products(const float (&x)[R], const float* columns,
                                Vec<float> (&sums)[R][V]) {
  Vec<float> operands[V];
  for (int v = 0; v < V; ++v) operands[v] = load(columns + v * VecOf<float>::lanes);
  for (int r = 0; r < R; ++r) {
    const Vec<float> coordinate = x[r] - Vec<float>{};  // in all lanes
    for (int v = 0; v < V; ++v) sums[r][v] = multiply_add(coordinate, operands[v], sums[r][v]);
  }
}

/// As add_products, coordinate after coordinate of `d`: those of rows[r] times rows of `columns`,
/// which are `stride` apart.
template <int R, int V>
HASHDL_INLINE void add_product_of_rows(const float* const (&rows)[R], const float* columns,
                                       int64_t stride, int64_t d, Vec<float> (&sums)[R][V]) {
  float x[R];
  for (int64_t k = 0; k < d; ++k, columns += stride) {
    for (int r = 0; r < R; ++r) x[r] = rows[r][k];
    add_products(x, columns, sums);
  }
}

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
