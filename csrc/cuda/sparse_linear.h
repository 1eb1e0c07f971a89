// A linear layer from active inputs to active outputs and its gradients; the arguments are those
// of the CPU kernels. Of a row scattered numbers are read: there are no loads of several at once.
#pragma once

#include "cpu/sparse_linear.h"
#include "cuda/row_groups.h"
#include "cuda/scratch.h"

namespace hashdl::cuda {

/// A warp a few rows of a sample. B samples, N rows of the weight.
template <typename T>
void sparse_forward(const cpu::SparseForward<T>& args, int64_t B, int64_t N, Stream stream);

/// A block a sample and some of its inputs.
template <typename T>
void sparse_backward_input(const cpu::SparseBackwardInput<T>& args, int64_t B, int64_t N,
                           Stream stream);

/// A block a row: row-major, each entry written once. G groups. E is at least the number of
/// entries, which the host does not learn: what is left repeats the last entry's row and column
/// with a gradient of 0. Where there are no entries at all that is column 0 of the first group.
/// `entry_start` is written as a whole.
template <typename T>
void sparse_backward_weight(const cpu::SparseBackwardWeight<T>& args, int64_t B, int64_t G,
                            int64_t E, Scratch& scratch, Stream stream);

}  // namespace hashdl::cuda
