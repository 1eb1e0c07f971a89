// From candidates to the active set.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/row_set.h"

namespace hashdl::cpu {

struct Select {
  const int32_t* candidates;  ///< (B, C), -1 = none
  const float* scores;        ///< (B, C), or null: earlier candidates first
  const int32_t* labels;      ///< (B, M), -1 = none; may be null when M = 0
  const int32_t* shared;      ///< (T), -1 = none: rows that the whole batch has, never selected
  int32_t* rows;              ///< (B, M + A), written; see Selector
  int32_t* columns;           ///< (B, A - R), written if not null: where the best stand among C
  int64_t C, M, A, R, T, N;
  int64_t seed, step;  ///< key of the random rows
};

/// One thread's selections, with the memory that they share.
class Selector {
 public:
  explicit Selector(const Select& args);

  /// The samples in [begin, end). Columns of rows: M labels in their own places, then the A - R
  /// best candidates in order of discovery, then R rows drawn uniformly from all N. A row stands in
  /// a sample once: a label that repeats, a candidate that is a label, a draw that is either, and
  /// whatever is shared becomes -1 (best candidates close ranks). Ties go to the earlier candidate;
  /// a NaN score ranks last.
  void run(int64_t begin, int64_t end);

 private:
  bool take(int32_t row);
  void place_labels(int64_t b, int32_t* out);
  void place_best(int64_t b, int32_t* out);
  void place_random(int64_t b, int32_t* out);
  int64_t rank(int64_t b);

  const Select& args_;
  RowSet shared_;
  RowSet taken_;
  std::vector<uint32_t> orders_;  ///< of the candidates, and room
  std::vector<int32_t> places_;   ///< of the best of them
};

struct SharedRows {
  const int32_t* labels;  ///< (Q), -1 = none
  int32_t* rows;          ///< (T), written: distinct labels, then distinct draws, then -1
  int32_t* distinct;      ///< (max_labels), written: these labels, then -1
  int64_t Q, T, N;
  int64_t max_labels;  ///< at most T
  int64_t seed, step;
};

/// Rows that the whole batch scores: returns how many of them are labels.
int64_t shared_rows(const SharedRows& args);

struct DistinctLabels {
  const int32_t* labels;  ///< (B, M), -1 = none
  int32_t* distinct;      ///< (B, M), written: -1 where an earlier column has the same label
  int64_t B, M;
};

/// Of the samples in [begin, end).
void distinct_labels(const DistinctLabels& args, int64_t begin, int64_t end);

}  // namespace hashdl::cpu
