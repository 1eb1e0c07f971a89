// Gathered linear layer and its gradients; the arguments are those of the CPU kernels.
#pragma once

#include "cpu/gather_linear.h"
#include "cuda/row_groups.h"
#include "cuda/scratch.h"

namespace hashdl::cuda {

/// A warp a few rows of a sample. B samples, N rows of the weight.
template <typename T>
void gather_forward(const cpu::GatherForward<T>& args, int64_t B, int64_t N, Stream stream);

/// The same to the bit, row-major: the pairs are grouped, and a warp takes a row, which is read
/// from memory once however many samples have it. Rows and outputs must be dense (stride = A).
template <typename T>
void gather_forward_by_row(const cpu::GatherForward<T>& args, int64_t B, int64_t N,
                           Scratch& scratch, Stream stream);

/// z[b, a] = scored[b, columns[b, a]], 0 where the column is -1: outputs that are known.
template <typename T>
struct ReuseScores {
  const T* scored;         ///< (B, C)
  const int32_t* columns;  ///< (B, A)
  T* z;                    ///< (B, A), written; `stride` from one sample to the next
  int64_t B, C, A, stride;
};
template <typename T>
void reuse_scores(const ReuseScores<T>& args, Stream stream);

/// float32 of `count` numbers.
template <typename T>
void widen_scores(const T* values, float* out, int64_t count, Stream stream);

/// A block a sample and some of its columns: sample-major, its rows read once a sample.
template <typename T>
void gather_backward_input(const cpu::GatherBackwardInput<T>& args, int64_t B, int64_t N,
                           Stream stream);

/// A warp a row and some of its columns, a block a row that has many pairs: row-major, each row
/// written once. G groups.
template <typename T>
void gather_backward_weight(const cpu::GatherBackwardWeight<T>& args, int64_t G, Stream stream);

template <typename T>
struct ScatterRows {
  const T* values;      ///< (B, A)
  const int32_t* rows;  ///< (B, A), -1 = padding
  T* out;               ///< (B, N), written at the rows
  int64_t B, A, N;
};
template <typename T>
void scatter_rows(const ScatterRows<T>& args, Stream stream);

}  // namespace hashdl::cuda
