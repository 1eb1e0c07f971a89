// A linear layer from active inputs to active outputs:
//   z[b, a] = sum_i values[b, i] * weight[rows[b, a], columns[b, i]] + bias[rows[b, a]],
// and its gradients. B samples, I active inputs and A active rows a sample, N rows of d columns,
// U distinct rows. An id of -1 is padding and contributes nothing (z = 0).
#pragma once

#include <cstdint>

#include "cpu/dtypes.h"
#include "cpu/simd.h"

namespace hashdl::cpu {

/// A sample's rows are cut into blocks, so that few samples keep several threads busy.
inline constexpr int64_t kRowBlock = 128;
inline __attribute__((always_inline)) int64_t row_blocks(int64_t A) {
  return (A + kRowBlock - 1) / kRowBlock;
}

template <typename T>
struct SparseForward {     ///< B * row_blocks(A) blocks, a sample's one after the other
  const T* values;         ///< (B, I)
  const int32_t* columns;  ///< (B, I)
  const T* weight;         ///< (N, d)
  const T* bias;           ///< (N), or null
  const int32_t* rows;     ///< (B, A)
  T* z;                    ///< (B, A), written
  int64_t d, I, A;
};

template <typename T>
struct SparseBackwardInput {
  const T* grad_z;         ///< (B, A)
  const int32_t* columns;  ///< (B, I)
  const T* weight;         ///< (N, d)
  const int32_t* rows;     ///< (B, A)
  T* grad_values;          ///< (B, I), written, 0 at padding
  int64_t d, I, A;
};

/// The gradient of each distinct row is kept as entries: the columns that some sample of the row
/// has, ascending.
template <typename T>
struct SparseBackwardWeight {
  const T* grad_z;         ///< (B, A)
  const T* values;         ///< (B, I)
  const int32_t* columns;  ///< (B, I)
  const int64_t* start;    ///< (U + 1): RowGroups::start
  const uint32_t* pair;    ///< RowGroups::pair
  int64_t* entry_start;    ///< (U + 1): counts written by count, at u + 1; read by backward_weight
  int32_t* entry_column;   ///< (E), written by backward_weight
  T* grad_weight;          ///< (E), written by backward_weight
  T* grad_bias;            ///< (U), written by backward_weight
  int64_t d, I, A;
};

template <typename T>
struct SparseLinearKernels {
  void (*forward)(const SparseForward<T>&, int64_t begin, int64_t end);                 ///< blocks
  void (*backward_input)(const SparseBackwardInput<T>&, int64_t begin, int64_t end);    ///< samples
  void (*count)(const SparseBackwardWeight<T>&, int64_t begin, int64_t end);            ///< groups
  void (*backward_weight)(const SparseBackwardWeight<T>&, int64_t begin, int64_t end);  ///< groups
};

HASHDL_DECLARE_TABLE(SparseLinearKernels, sparse_linear_kernels)

}  // namespace hashdl::cpu
