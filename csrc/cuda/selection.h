// From candidates to the active set.
#pragma once

#include "cuda/launch.h"
#include "cuda/step.h"

namespace hashdl::cuda {

struct Select {
  const int32_t* candidates;  ///< (B, C), distinct in a sample, -1 = none
  const float* scores;        ///< (B, C), or null: earlier candidates first
  const int32_t* labels;      ///< (B, M), -1 = none; may be null when M = 0
  const int32_t* shared;      ///< (T), -1 = none: rows that the whole batch has, never selected
  int32_t* rows;              ///< (B, M + A), written; see select
  int32_t* columns;           ///< (B, A - R), written if not null: where the best stand among C
  int64_t B, C, M, A, R, T, N;
  int64_t seed;
  Step step;
};

/// Columns of rows: M labels in their own places, then the A - R best candidates in order of
/// discovery, then R rows drawn uniformly from all N. A row stands in a sample once: a label that
/// repeats, a candidate that is a label, a draw that is either, and whatever is shared becomes -1
/// (best candidates close ranks). Ties go to the earlier candidate; a NaN score ranks last.
void select(const Select& args, Scratch& scratch, cudaStream_t stream);

struct SharedRows {
  const int32_t* labels;  ///< (Q), -1 = none
  int32_t* rows;          ///< (T), written: distinct labels, then distinct draws, then -1
  int64_t* n_labels;      ///< (1), written: how many of them are labels
  int64_t Q, T, N;
  int64_t max_labels;  ///< at most T
  int64_t seed;
  Step step;
};

/// Rows that the whole batch scores.
void shared_rows(const SharedRows& args, Scratch& scratch, cudaStream_t stream);

}  // namespace hashdl::cuda
