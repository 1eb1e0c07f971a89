// Gathered linear layer: z[b, a] = <x[b], weight[rows[b, a]]> + bias[rows[b, a]], and its
// gradients. Layouts are row-major and dense; a row id of -1 is padding and contributes nothing (z
// = 0). B samples, d features, A rows a sample, N rows of the weight, U distinct rows.
#pragma once

#include <cstdint>

#include "cpu/dtypes.h"
#include "cpu/simd.h"

namespace hashdl::cpu {

/// A sample's features are cut into blocks, so that few samples keep several threads busy.
inline constexpr int64_t kFeatureBlock = 512;
inline __attribute__((always_inline)) int64_t feature_blocks(int64_t d) {
  return (d + kFeatureBlock - 1) / kFeatureBlock;
}

template <typename T>
struct GatherForward {
  const T* x;           ///< (B, d)
  const T* weight;      ///< (N, d)
  const T* bias;        ///< (N), or null
  const int32_t* rows;  ///< (B, A)
  T* z;                 ///< (B, A), written
  int64_t d, A;
  int64_t stride;  ///< from one sample's rows, and outputs, to the next: A or more
};

template <typename T>
struct GatherBackwardInput {  ///< B * feature_blocks(d) blocks, a sample's one after the other
  const T* grad_z;            ///< (B, A)
  const T* weight;            ///< (N, d)
  const int32_t* rows;        ///< (B, A)
  T* grad_x;                  ///< (B, d), written
  int64_t d, A;
};

template <typename T>
struct GatherBackwardWeight {
  const T* grad_z;       ///< (B, A)
  const T* x;            ///< (B, d)
  const T* extra_grad;   ///< (E, d): added to the gradient of the extra rows; may be null
  const T* extra_bias;   ///< (E), or null
  const int64_t* start;  ///< (U + 1): RowGroups::start
  const uint32_t* pair;  ///< RowGroups::pair: below B * A a (sample, row), from there on an extra
  T* grad_weight;        ///< (U, d), written
  T* grad_bias;          ///< (U), written, or null
  int64_t d, A;
  int64_t pairs;          ///< B * A
  bool streamed = false;  ///< grad_weight is more than stays in cache until it is read
};

template <typename T>
struct GatherLinearKernels {
  void (*forward)(const GatherForward<T>&, int64_t begin, int64_t end);                 ///< samples
  void (*backward_input)(const GatherBackwardInput<T>&, int64_t begin, int64_t end);    ///< blocks
  void (*backward_weight)(const GatherBackwardWeight<T>&, int64_t begin, int64_t end);  ///< groups
  void (*widen)(const T* values, float* out, int64_t count);  ///< as float32
};

HASHDL_DECLARE_TABLE(GatherLinearKernels, gather_linear_kernels)

}  // namespace hashdl::cpu
