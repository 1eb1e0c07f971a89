#include "cuda/selection.h"

#include "cpu/random.h"
#include "cpu/score_order.h"
#include "cuda/numbering.h"
#include "cuda/row_set.h"

namespace hashdl::cuda {
namespace {

using cpu::DistinctLabels;
using cpu::Select;
using cpu::SharedRows;

constexpr int kThreads = 256;
constexpr uint32_t kExcluded = 0xffffffffu;  ///< above the order of any score

/// Scores up to which candidates are kept: those below `order`, and the first `ties` equal to it.
struct Threshold {
  uint32_t order;
  int32_t ties;
};

/// The `budget` smallest of the orders (C): found digit by digit, by counting.
__device__ Threshold find_threshold(const uint32_t* orders, int64_t C, int32_t budget) {
  constexpr int kDigit = 8, kDigits = 1 << kDigit;
  static_assert(kDigits == kThreads, "a thread a digit");
  static __shared__ int32_t counts[kDigits];
  static __shared__ uint32_t digit;
  static __shared__ int32_t left;
  uint32_t prefix = 0;
  for (int shift = 32 - kDigit; shift >= 0; shift -= kDigit) {
    counts[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t c = threadIdx.x; c < C; c += kThreads) {
      const bool counted = static_cast<uint64_t>(orders[c] ^ prefix) >> (shift + kDigit) == 0;
      if (counted) atomicAdd(&counts[orders[c] >> shift & (kDigits - 1)], 1);
    }
    __syncthreads();
    const int32_t mine = counts[threadIdx.x];
    const Scanned scanned = block_scan<kThreads>(mine);
    if (scanned.before < budget && budget <= scanned.before + mine) {
      digit = threadIdx.x;
      left = budget - scanned.before;
    }
    __syncthreads();
    prefix |= digit << shift;
    budget = left;
    __syncthreads();
  }
  return {prefix, budget};
}

/// One sample's selection, by a block. `taken` numbers rows by the first of their columns.
class Selection {
 public:
  __device__ Selection(const Select& args, const SharedRowMap& shared, RowMap taken,
                       uint32_t* orders)
      : args_(args), shared_(shared), taken_(taken), orders_(orders) {}

  __device__ void run(int64_t b, int64_t step) {
    b_ = b;
    int32_t* const rows = args_.rows + b_ * (args_.M + args_.A);
    const int64_t best = args_.A - args_.R;
    taken_.clear();
    __syncthreads();
    place(args_.M, 0, rows, [&](int64_t m) { return args_.labels[b_ * args_.M + m]; });
    order_candidates();
    place_best(static_cast<int32_t>(best), rows + args_.M);
    const uint64_t key = cpu::stream_key(args_.seed, step, cpu::kRandomRowsStream + b_);
    place(args_.R, args_.M + best, rows + args_.M + best,
          [&](int64_t r) { return static_cast<int32_t>(cpu::draw_below(key, r, args_.N)); });
  }

 private:
  /// out[i] = row(i) for i < count, or -1 where it is shared or stands in an earlier column; the
  /// columns begin at `first`.
  template <typename Row>
  __device__ void place(int64_t count, int64_t first, int32_t* out, const Row& row) {
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
      out[i] = row(i);
      require(out[i] >= -1 && out[i] < args_.N,
              "hashdl::select: labels: got an id outside -1 to N - 1");
      if (out[i] >= 0 && shared_.contains(out[i])) out[i] = -1;
      if (out[i] >= 0) take(out[i], first + i);
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
      if (out[i] >= 0 && taken_.number(taken_.find(out[i])) != first + i) out[i] = -1;
    }
    __syncthreads();
  }

  __device__ void take(int32_t row, int64_t column) {
    atomicMin(&taken_.number(taken_.insert(row)), static_cast<uint32_t>(column));
  }

  /// The order of each candidate that is neither a label nor shared.
  __device__ void order_candidates() {
    for (int64_t c = threadIdx.x; c < args_.C; c += kThreads) {
      const int32_t row = candidate(c);
      require(row >= -1 && row < args_.N,
              "hashdl::select: candidates: got an id outside -1 to N - 1");
      const bool out = row < 0 || shared_.contains(row) || taken_.contains(row);
      const float score = args_.scores == nullptr ? 0.0f : args_.scores[b_ * args_.C + c];
      orders_[c] = out ? kExcluded : cpu::descending_bits(score);
    }
    __syncthreads();
  }

  /// The best candidates in order of discovery, kThreads candidates at a time.
  __device__ void place_best(int32_t budget, int32_t* out) {
    int32_t* const columns = args_.columns == nullptr ? nullptr : args_.columns + b_ * budget;
    Threshold last{kExcluded, 0};
    if (budget < args_.C && budget > 0) last = find_threshold(orders_, args_.C, budget);
    int32_t kept = 0, ties = 0;
    for (int64_t first = 0; first < args_.C && budget > 0; first += kThreads) {
      const int64_t c = first + threadIdx.x;
      const uint32_t order = c < args_.C ? orders_[c] : kExcluded;
      const bool tie = order == last.order && order != kExcluded;
      const Scanned tied = block_scan<kThreads>(tie);
      const bool keep = order < last.order || (tie && ties + tied.before < last.ties);
      const Scanned keeps = block_scan<kThreads>(keep);
      if (keep) {
        const int32_t at = kept + keeps.before;
        out[at] = candidate(c);
        if (columns != nullptr) columns[at] = static_cast<int32_t>(c);
        take(out[at], args_.M + at);
      }
      ties += tied.total;
      kept += keeps.total;
    }
    for (int32_t i = kept + static_cast<int32_t>(threadIdx.x); i < budget; i += kThreads) {
      out[i] = -1;
      if (columns != nullptr) columns[i] = -1;
    }
    __syncthreads();
  }

  __device__ int32_t candidate(int64_t c) const { return args_.candidates[b_ * args_.C + c]; }

  const Select& args_;
  const SharedRowMap& shared_;
  int64_t b_ = 0;
  RowMap taken_;
  uint32_t* orders_;
};

__global__ void select_kernel(Select args, Step step, int64_t B, SharedRowMap shared,
                              BlockMemory memory, int64_t slots) {
  int32_t* const words = memory.mine();
  uint32_t* const orders = reinterpret_cast<uint32_t*>(words + map_words(slots));
  Selection selection(args, shared, RowMap(words, slots), orders);
  for (int64_t b = blockIdx.x; b < B; b += gridDim.x) selection.run(b, value_of(step));
}

constexpr int kSharedThreads = 1024;
using SharedNumbering = Numbering<kSharedThreads>;

/// Numbers row(0), row(1), ..., row(count - 1) up to `limit`.
template <typename Row>
__device__ void number_rows(SharedNumbering& found, int64_t count, int64_t limit, const Row& row) {
  for (int64_t first = 0; first < count && found.count() < limit; first += kSharedThreads) {
    const int64_t i = first + threadIdx.x;
    found.add(i < count ? row(i) : -1);
  }
  __syncthreads();
}

/// By one block: what is drawn depends on what came before.
__global__ void __launch_bounds__(kSharedThreads)
    shared_rows_kernel(SharedRows args, Step step, int64_t* n_labels, BlockMemory memory,
                       int64_t slots) {
  SharedNumbering found(RowMap(memory.mine(), slots));
  found.start(static_cast<int32_t>(args.max_labels));
  number_rows(found, args.Q, args.max_labels, [&](int64_t q) {
    require(args.labels[q] >= -1 && args.labels[q] < args.N,
            "hashdl::shared_rows: labels: got an id outside -1 to N - 1");
    return args.labels[q];
  });
  const int64_t labels = found.count();
  if (threadIdx.x == 0) *n_labels = labels;
  found.set_limit(static_cast<int32_t>(args.T));
  const uint64_t key = cpu::stream_key(args.seed, value_of(step), cpu::kSharedStream);
  // Draws that repeat are dropped; where T comes near N, this many draws bound the time.
  number_rows(found, 4 * args.T, args.T, [&](int64_t draw) {
    return static_cast<int32_t>(cpu::draw_below(key, draw, args.N));
  });
  for (int64_t slot = threadIdx.x; slot < slots; slot += kSharedThreads) {
    const uint32_t number = found.map().number(slot);
    if (number < args.T) args.rows[number] = found.map().row(slot);
    if (number < labels) args.distinct[number] = found.map().row(slot);
  }
  for (int64_t t = labels + threadIdx.x; t < args.max_labels; t += kSharedThreads) {
    args.distinct[t] = -1;
  }
  for (int64_t t = found.count() + threadIdx.x; t < args.T; t += kSharedThreads) args.rows[t] = -1;
}

__global__ void distinct_labels_kernel(DistinctLabels args) {
  const int64_t i = thread_index();
  if (i >= args.B * args.M) return;
  const int32_t label = args.labels[i];
  bool first = label >= 0;
  for (int64_t earlier = i - i % args.M; first && earlier < i; ++earlier) {
    first = args.labels[earlier] != label;
  }
  args.distinct[i] = first ? label : -1;
}

__global__ void rank_by_hits_kernel(RankByHits args) {
  const int64_t i = thread_index();
  if (i >= args.count) return;
  if (args.hits[i] < args.threshold) args.candidates[i] = -1;
  args.scores[i] = static_cast<float>(args.hits[i]);
}

}  // namespace

void select(const Select& args, int64_t B, const Step& step, Scratch& scratch, Stream stream) {
  const int64_t slots = map_slots(args.M + args.A);
  const BlockMemory memory = BlockMemory::make(map_words(slots) + args.C, B, scratch);
  const SharedRowMap shared = SharedRowMap::make(args.T, scratch);
  if (scratch.measuring()) return;
  shared.fill(args.shared, stream);
  launch(select_kernel, memory.blocks(B), kThreads, memory.shared_bytes(), stream, args, step, B,
         shared, memory, slots);
}

void shared_rows(const SharedRows& args, const Step& step, int64_t* n_labels, Scratch& scratch,
                 Stream stream) {
  const int64_t slots = SharedNumbering::slots(args.T, 2);
  const BlockMemory memory = BlockMemory::make(map_words(slots), 1, scratch);
  if (scratch.measuring()) return;
  launch(shared_rows_kernel, 1, kSharedThreads, memory.shared_bytes(), stream, args, step, n_labels,
         memory, slots);
}

void distinct_labels(const DistinctLabels& args, Stream stream) {
  launch(distinct_labels_kernel, blocks_for(args.B * args.M, kThreads), kThreads, 0, stream, args);
}

void rank_by_hits(const RankByHits& args, Stream stream) {
  launch(rank_by_hits_kernel, blocks_for(args.count, kThreads), kThreads, 0, stream, args);
}

}  // namespace hashdl::cuda
