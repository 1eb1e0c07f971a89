// Optimizer steps that touch only the rows with a gradient. weight (N, d); grad (U, d) belongs to
// the distinct rows `rows` (U); an entry whose row is that of the entry before it is padding, and
// skipped. Everything is updated in place, in one pass over each row.
#pragma once

#include <cstdint>

#include "cpu/dtypes.h"
#include "cpu/simd.h"

namespace hashdl::cpu {

template <typename T>
struct RowUpdate {
  T* weight;            ///< (N, d), updated
  const int32_t* rows;  ///< (U), in [0, N), distinct but for padding
  const T* grad;        ///< (U, d)
  int64_t d;
  double lr;
  double weight_decay;  ///< added to the gradient as weight_decay * weight (L2)
};

template <typename T>
struct SgdRows {
  RowUpdate<T> update;
  Accumulate<T>* momentum_buffer;  ///< (N, d), updated; null without momentum
  double momentum;
  bool nesterov;
};

template <typename T>
struct AdagradRows {
  RowUpdate<T> update;
  Accumulate<T>* sum;  ///< (N, d), or (N) when row_wise: mean of the squares of the row; updated
  bool row_wise;
  double eps;
};

/// States are stored as S: Accumulate<T>, or BFloat16, to which they are rounded at random, each up
/// or down so that the expectation is what was computed; see round_at_random.
template <typename T, typename S = Accumulate<T>>
struct AdamRows {
  RowUpdate<T> update;
  S* exp_avg;                 ///< (N, d), updated
  S* exp_avg_sq;              ///< (N, d), updated; null when row-wise
  Accumulate<T>* row_square;  ///< (N), updated: exp_avg_sq when row-wise, else null
  double beta1, beta2, eps;
  int64_t step;    ///< 1 for the first step: the bias correction is of the global step
  bool decoupled;  ///< weight decay as in AdamW instead of L2
  int64_t seed;    ///< of the rounding: a row draws from the stream (seed, step, row)
};

template <typename T>
struct RowOptimizerKernels {
  void (*sgd)(const SgdRows<T>&, int64_t begin, int64_t end);          ///< range of `rows`
  void (*adagrad)(const AdagradRows<T>&, int64_t begin, int64_t end);  ///< range of `rows`
  void (*adam)(const AdamRows<T>&, int64_t begin, int64_t end);        ///< range of `rows`
  void (*adam_bfloat16)(const AdamRows<T, BFloat16>&, int64_t begin, int64_t end);  ///< likewise
};

HASHDL_DECLARE_TABLE(RowOptimizerKernels, row_optimizer_kernels)

}  // namespace hashdl::cpu
