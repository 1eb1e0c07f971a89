// Optimizer steps that touch only the rows with a gradient: a warp a row, in one pass. The
// arguments are those of the CPU kernels, and so is what they do: a row that is equal to the one
// before it is skipped.
#pragma once

#include "cpu/row_optimizers.h"
#include "cuda/scratch.h"

namespace hashdl::cuda {

struct RowIds {
  const int64_t* ids;  ///< (U)
  int32_t* rows;       ///< (U), written: the same
  bool* ascending;     ///< (1), written: whether each is larger than the one before it
  int64_t U;
};
void row_ids(const RowIds& args, Stream stream);

/// Of U rows and N in all.
template <typename T>
void sgd_rows(const cpu::SgdRows<T>& args, int64_t U, int64_t N, Stream stream);
template <typename T>
void adagrad_rows(const cpu::AdagradRows<T>& args, int64_t U, int64_t N, Stream stream);
/// `step`: where the number of the step stands on the device, in the place of that in `args`; or
/// null.
template <typename T, typename S>
void adam_rows(const cpu::AdamRows<T, S>& args, const float* step, int64_t U, int64_t N,
               Scratch& scratch, Stream stream);

}  // namespace hashdl::cuda
