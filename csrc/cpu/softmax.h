// Log probabilities of labels under a softmax over active rows, and their gradient. A sample's
// logits are those of its own rows and those of rows that the batch shares; a row id of -1 is
// padding, whose logit does not count. B samples, Q rows of its own a sample, M labels a sample.
#pragma once

#include <cstdint>

#include "cpu/dtypes.h"
#include "cpu/simd.h"

namespace hashdl::cpu {

template <typename T>
struct ActiveLogits {
  const T* z;             ///< (B, Q)
  const T* s;             ///< (B, S), or null where S is 0
  const int32_t* rows;    ///< (B, Q)
  const int32_t* shared;  ///< (S), or null where S is 0
  int64_t Q, S;
};

template <typename T>
struct LogProbForward {
  ActiveLogits<T> logits;
  const int32_t* places;     ///< (B, M), see label_places.h
  T* log_prob;               ///< (B), written
  Accumulate<T>* logsumexp;  ///< (B), written
  int64_t M;
};

template <typename T>
struct LogProbBackward {
  const T* grad_log_prob;  ///< (B)
  ActiveLogits<T> logits;
  const Accumulate<T>* logsumexp;  ///< (B)
  const int32_t* places;           ///< (B, M), distinct in a sample, but for -1
  T* grad_z;                       ///< (B, Q), written
  T* grad_s;                       ///< (B, S), written
  int64_t M;
};

template <typename T>
struct SoftmaxKernels {
  void (*forward)(const LogProbForward<T>&, int64_t begin, int64_t end);    ///< samples
  void (*backward)(const LogProbBackward<T>&, int64_t begin, int64_t end);  ///< samples
};

HASHDL_DECLARE_TABLE(SoftmaxKernels, softmax_kernels)

}  // namespace hashdl::cpu
