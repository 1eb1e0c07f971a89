#include "cpu/selection.h"

#include <algorithm>

#include "cpu/random.h"
#include "cpu/ranking.h"

namespace hashdl::cpu {

Selector::Selector(const Select& args)
    : args_(args),
      shared_(args.T),
      taken_(args.M > 0 || args.R > 0 ? args.M + args.A : 0),
      orders_(args.C + RankingKernels<float>::kRoom),
      places_(args.C + 1) {
  for (int64_t t = 0; t < args.T; ++t) {
    if (args.shared[t] >= 0) shared_.insert(args.shared[t]);
  }
}

void Selector::run(int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    int32_t* rows = args_.rows + b * (args_.M + args_.A);
    taken_.clear();
    place_labels(b, rows);
    place_best(b, rows + args_.M);
    place_random(b, rows + args_.M + args_.A - args_.R);
  }
}

/// Takes the row for this sample unless it is there already or the batch shares it.
bool Selector::take(int32_t row) {
  return row >= 0 && !shared_.contains(row) && taken_.insert(row);
}

void Selector::place_labels(int64_t b, int32_t* out) {
  for (int64_t m = 0; m < args_.M; ++m) {
    const int32_t label = args_.labels[b * args_.M + m];
    out[m] = take(label) ? label : -1;
  }
}

void Selector::place_best(int64_t b, int32_t* out) {
  const int64_t budget = args_.A - args_.R;
  int32_t* columns = args_.columns == nullptr ? nullptr : args_.columns + b * budget;
  const int64_t ranked = rank(b);
  RankThreshold last = ranking_kernels<float>().threshold(orders_.data(), ranked, budget);
  const int64_t best =
      ranking_kernels<float>().find_up_to(orders_.data(), ranked, last.order, places_.data());
  int64_t count = 0;
  for (int64_t i = 0; i < best && count < budget; ++i) {
    const int32_t c = places_[i];
    if (orders_[c] == last.order && last.ties-- <= 0) continue;
    const int32_t row = args_.candidates[b * args_.C + c];
    if (args_.R > 0) taken_.insert(row);
    if (columns != nullptr) columns[count] = c;
    out[count++] = row;
  }
  std::fill(out + count, out + budget, -1);
  if (columns != nullptr) std::fill(columns + count, columns + budget, -1);
}

/// The orders of the candidates that are neither labels nor shared, in order of discovery; returns
/// a number behind which there are none. Candidates are distinct by contract.
int64_t Selector::rank(int64_t b) {
  const int32_t* candidates = args_.candidates + b * args_.C;
  const float* scores = args_.scores == nullptr ? nullptr : args_.scores + b * args_.C;
  const int64_t ranked =
      ranking_kernels<float>().order(candidates, scores, args_.C, orders_.data());
  if (args_.M == 0 && args_.T == 0) return ranked;
  for (int64_t c = 0; c < ranked; ++c) {
    const int32_t row = candidates[c];
    if (row >= 0 && (shared_.contains(row) || taken_.contains(row))) orders_[c] = kUnranked;
  }
  return ranked;
}

void Selector::place_random(int64_t b, int32_t* out) {
  const uint64_t key = stream_key(args_.seed, args_.step, kRandomRowsStream + b);
  for (int64_t r = 0; r < args_.R; ++r) {
    const int32_t row = static_cast<int32_t>(draw_below(key, r, args_.N));
    out[r] = take(row) ? row : -1;
  }
}

int64_t shared_rows(const SharedRows& args) {
  RowSet taken(args.T);
  int64_t count = 0;
  for (int64_t q = 0; q < args.Q && count < args.max_labels; ++q) {
    if (args.labels[q] >= 0 && taken.insert(args.labels[q])) args.rows[count++] = args.labels[q];
  }
  const int64_t labels = count;
  std::copy(args.rows, args.rows + labels, args.distinct);
  std::fill(args.distinct + labels, args.distinct + args.max_labels, -1);
  const uint64_t key = stream_key(args.seed, args.step, kSharedStream);
  // Draws that repeat are dropped; where T comes near N, this many draws bound the time.
  const int64_t draws = 4 * args.T;
  for (int64_t draw = 0; draw < draws && count < args.T; ++draw) {
    const int32_t row = static_cast<int32_t>(draw_below(key, draw, args.N));
    if (taken.insert(row)) args.rows[count++] = row;
  }
  std::fill(args.rows + count, args.rows + args.T, -1);
  return labels;
}

void distinct_labels(const DistinctLabels& args, int64_t begin, int64_t end) {
  RowSet taken(args.M);
  for (int64_t b = begin; b < end; ++b) {
    taken.clear();
    for (int64_t i = b * args.M; i < (b + 1) * args.M; ++i) {
      const int32_t label = args.labels[i];
      args.distinct[i] = label >= 0 && taken.insert(label) ? label : -1;
    }
  }
}

}  // namespace hashdl::cpu
