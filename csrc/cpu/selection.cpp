#include "cpu/selection.h"

#include <algorithm>
#include <array>
#include <bit>

#include "cpu/random.h"
#include "cpu/score_order.h"

namespace hashdl::cpu {
namespace {

uint64_t rank(float score, int64_t column) {
  return static_cast<uint64_t>(descending_bits(score)) << 32 | static_cast<uint64_t>(column);
}

int64_t column_of(uint64_t ranked) { return static_cast<int64_t>(ranked & 0xffffffffu); }

}  // namespace

Selector::Selector(const Select& args)
    : args_(args), shared_(args.T), taken_(args.M + args.A), pool_(args.C), order_(args.C + 1) {
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
  collect_pool(b);
  const Ranked worst = worst_kept(budget);
  int64_t count = 0;
  for (int64_t i = 0; i < size_ && count < budget; ++i) {
    const Ranked ranked = pool_[i];
    if (ranked > worst) continue;
    const int64_t column = column_of(ranked);
    const int32_t row = args_.candidates[b * args_.C + column];
    taken_.insert(row);
    if (columns != nullptr) columns[count] = static_cast<int32_t>(column);
    out[count++] = row;
  }
  std::fill(out + count, out + budget, -1);
  if (columns != nullptr) std::fill(columns + count, columns + budget, -1);
}

/// The last rank that is within the budget: found among the ranks that fall into its bin, of 256
/// over the range of all.
Selector::Ranked Selector::worst_kept(int64_t budget) {
  if (size_ <= budget || budget == 0) return ~Ranked{0};
  const int shift = std::max(0, static_cast<int>(std::bit_width(most_ - least_)) - 8);
  const auto bin_of = [&](Ranked ranked) { return (ranked - least_) >> shift; };
  std::array<int32_t, 256> counts{};
  for (int64_t i = 0; i < size_; ++i) ++counts[bin_of(pool_[i])];
  Ranked bin = 0;
  int64_t before = 0;
  for (; before + counts[bin] < budget; ++bin) before += counts[bin];
  int64_t binned = 0;
  for (int64_t i = 0; i < size_; ++i) {
    order_[binned] = pool_[i];
    binned += bin_of(pool_[i]) == bin;
  }
  const auto last = order_.begin() + (budget - before - 1);
  std::nth_element(order_.begin(), last, order_.begin() + binned);
  return *last;
}

/// The candidates that are neither labels nor shared, in order of discovery. They are distinct by
/// contract.
void Selector::collect_pool(int64_t b) {
  const int32_t* candidates = args_.candidates + b * args_.C;
  const float* scores = args_.scores == nullptr ? nullptr : args_.scores + b * args_.C;
  size_ = 0;
  least_ = ~Ranked{0};
  most_ = 0;
  for (int64_t c = 0; c < args_.C; ++c) {
    const int32_t row = candidates[c];
    if (row < 0 || shared_.contains(row) || taken_.contains(row)) continue;
    const Ranked ranked = rank(scores == nullptr ? 0.0f : scores[c], c);
    pool_[size_++] = ranked;
    least_ = std::min(least_, ranked);
    most_ = std::max(most_, ranked);
  }
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

}  // namespace hashdl::cpu
