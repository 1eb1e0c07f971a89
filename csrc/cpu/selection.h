// From candidates to the active set.
#pragma once

#include <cstdint>

namespace hashdl::cpu {

struct Select {
  const int32_t* candidates;  ///< (B, C), -1 = none
  const float* scores;        ///< (B, C), or null: earlier candidates first
  const int32_t* labels;      ///< (B, M), -1 = none; may be null when M = 0
  const int32_t* shared;      ///< (T), -1 = none: rows that the whole batch has, never selected
  int32_t* rows;              ///< (B, M + A), written; see select()
  int64_t C, M, A, R, T, N;
  int64_t seed, step;  ///< key of the random rows
};

/// The samples in [begin, end). Columns of rows: M labels in their own places, then the A - R best
/// candidates in order of discovery, then R rows drawn uniformly from all N. A row stands in a
/// sample once: a label that repeats, a candidate that is a label, a draw that is either, and
/// whatever is shared becomes -1 (best candidates close ranks). Ties go to the earlier candidate;
/// a NaN score ranks last.
void select(const Select& args, int64_t begin, int64_t end);

struct SharedRows {
  const int32_t* labels;  ///< (Q), -1 = none
  int32_t* rows;          ///< (T), written: distinct labels, then distinct draws, then -1
  int64_t Q, T, N;
  int64_t max_labels;  ///< at most T
  int64_t seed, step;
};

/// Rows that the whole batch scores: returns how many of them are labels.
int64_t shared_rows(const SharedRows& args);

}  // namespace hashdl::cpu
