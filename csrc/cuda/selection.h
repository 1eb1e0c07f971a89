// From candidates to the active set; the arguments are those of the CPU kernels, but for the step.
#pragma once

#include "cpu/selection.h"
#include "cuda/scratch.h"

namespace hashdl::cuda {

/// B samples, a block each; see cpu::Selector. A null args.columns is left alone.
void select(const cpu::Select& args, int64_t B, const Step& step, Scratch& scratch, Stream stream);

/// Rows that the whole batch scores; n_labels (1) is written.
void shared_rows(const cpu::SharedRows& args, const Step& step, int64_t* n_labels, Scratch& scratch,
                 Stream stream);

/// A thread a label.
void distinct_labels(const cpu::DistinctLabels& args, Stream stream);

/// Ranks `count` candidates by their hits; those with fewer than `threshold` become -1.
struct RankByHits {
  const int32_t* hits;
  int32_t* candidates;
  float* scores;
  int64_t count, threshold;
};
void rank_by_hits(const RankByHits& args, Stream stream);

}  // namespace hashdl::cuda
