#include "cpu/selection.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/random.h"
#include "cpu/row_set.h"

namespace hashdl::cpu {
namespace {

// Streams of random numbers: the look-up of sample b draws from stream b.
constexpr int64_t kSharedStream = -1;
constexpr int64_t kRandomRowsStream = int64_t{1} << 40;

struct Scored {
  float score;
  int32_t column;
  bool operator<(const Scored& other) const {  // better first
    return score != other.score ? score > other.score : column < other.column;
  }
};

class Selector {
 public:
  explicit Selector(const Select& args) : args_(args), shared_(args.T), taken_(args.M + args.A) {
    for (int64_t t = 0; t < args.T; ++t) {
      if (args.shared[t] >= 0) shared_.insert(args.shared[t]);
    }
    pool_.reserve(args.C);
  }

  void run(int64_t b) {
    int32_t* rows = args_.rows + b * (args_.M + args_.A);
    taken_.clear();
    place_labels(b, rows);
    place_best(b, rows + args_.M);
    place_random(b, rows + args_.M + args_.A - args_.R);
  }

 private:
  /// Takes the row for this sample unless it is there already or the batch shares it.
  bool take(int32_t row) { return row >= 0 && !shared_.contains(row) && taken_.insert(row); }

  void place_labels(int64_t b, int32_t* out) {
    for (int64_t m = 0; m < args_.M; ++m) {
      const int32_t label = args_.labels[b * args_.M + m];
      out[m] = take(label) ? label : -1;
    }
  }

  void place_best(int64_t b, int32_t* out) {
    const int64_t budget = args_.A - args_.R;
    collect_pool(b);
    if (static_cast<int64_t>(pool_.size()) > budget) {
      std::nth_element(pool_.begin(), pool_.begin() + budget, pool_.end());
      pool_.resize(budget);
      std::sort(pool_.begin(), pool_.end(),
                [](const Scored& a, const Scored& b) { return a.column < b.column; });
    }
    int64_t count = 0;
    for (const Scored& scored : pool_) {
      const int32_t row = args_.candidates[b * args_.C + scored.column];
      taken_.insert(row);
      out[count++] = row;
    }
    std::fill(out + count, out + budget, -1);
  }

  /// The candidates that are neither labels nor shared. They are distinct by contract.
  void collect_pool(int64_t b) {
    pool_.clear();
    for (int64_t c = 0; c < args_.C; ++c) {
      const int32_t row = args_.candidates[b * args_.C + c];
      if (row < 0 || shared_.contains(row) || taken_.contains(row)) continue;
      const float score = args_.scores == nullptr ? 0.0f : args_.scores[b * args_.C + c];
      const float ranked = std::isnan(score) ? -std::numeric_limits<float>::infinity() : score;
      pool_.push_back({ranked, static_cast<int32_t>(c)});
    }
  }

  void place_random(int64_t b, int32_t* out) {
    const uint64_t key = stream_key(args_.seed, args_.step, kRandomRowsStream + b);
    for (int64_t r = 0; r < args_.R; ++r) {
      const int32_t row = static_cast<int32_t>(draw_below(key, r, args_.N));
      out[r] = take(row) ? row : -1;
    }
  }

  const Select& args_;
  RowSet shared_;
  RowSet taken_;
  std::vector<Scored> pool_;
};

}  // namespace

void select(const Select& args, int64_t begin, int64_t end) {
  Selector selector(args);
  for (int64_t b = begin; b < end; ++b) selector.run(b);
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
