#include "cpu/lookup.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <vector>

#include "cpu/hashing.h"
#include "cpu/random.h"
#include "cpu/row_set.h"

namespace hashdl::cpu {
namespace {

/// A set of bits to flip, as a mask over the bits sorted by |projection|, and its cost: the sum of
/// the squared projections, added in ascending order, so that equal sets have equal costs to the
/// bit. Ordered by cost, then mask.
struct Flip {
  float below;  ///< the sum without the highest bit
  float cost;
  uint32_t mask;
  bool operator>(const Flip& other) const {
    return cost != other.cost ? cost > other.cost : mask > other.mask;
  }
};

/// The codes that one table is probed at, cheapest flips first.
class ProbeSequence {
 public:
  ProbeSequence(int64_t K, int64_t P) : K_(K), P_(P), bits_(K) { heap_.reserve(P + 2); }

  /// Writes P codes to out[0], out[stride], ...
  void fill(const float* projections, int32_t code, int32_t* out, int64_t stride) {
    out[0] = code;
    if (P_ == 1) return;
    sort_bits(projections);
    heap_.assign(1, {0, bits_[0].square, 1});
    for (int64_t p = 1; p < P_; ++p) {
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      const Flip flip = heap_.back();
      heap_.pop_back();
      out[p * stride] = code ^ flipped_bits(flip.mask);
      push_successors(flip);
    }
  }

 private:
  struct Bit {
    float magnitude, square;
    int32_t flip;  ///< the bit in the code
  };

  /// Ascending by |projection|, ties by bit: insertion, for there are few.
  void sort_bits(const float* projections) {
    for (int64_t k = 0; k < K_; ++k) {
      const Bit bit{std::fabs(projections[k]), projections[k] * projections[k], 1 << k};
      int64_t at = k;
      for (; at > 0 && bits_[at - 1].magnitude > bit.magnitude; --at) bits_[at] = bits_[at - 1];
      bits_[at] = bit;
    }
  }

  int32_t flipped_bits(uint32_t mask) const {
    int32_t bits = 0;
    for (; mask != 0; mask &= mask - 1) bits |= bits_[std::countr_zero(mask)].flip;
    return bits;
  }

  /// "Shift" moves the highest bit one up, "expand" adds the bit above it: every set of bits is
  /// reached once, from a cheaper one.
  void push_successors(const Flip& flip) {
    const int next = std::bit_width(flip.mask);
    if (next >= K_) return;
    const uint32_t bit = uint32_t{1} << next;
    const float square = bits_[next].square;
    push({flip.below, flip.below + square, (flip.mask ^ (bit >> 1)) | bit});
    push({flip.cost, flip.cost + square, flip.mask | bit});
  }

  void push(const Flip& flip) {
    heap_.push_back(flip);
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }

  int64_t K_, P_;
  std::vector<Bit> bits_;  ///< ascending by |projection|
  std::vector<Flip> heap_;
};

/// The candidates of one sample while they are found.
class Collector {
 public:
  Collector(const Lookup& args) : args_(args), found_(args.C) {}

  void start(int64_t b) {
    candidates_ = args_.candidates + b * args_.C;
    hits_ = args_.hits + b * args_.C;
    count_ = 0;
    found_.clear();
  }

  /// Reads bucket `code` of table l, at most cap rows of it; false when it is not within the table.
  bool read_bucket(int64_t l, int32_t code, uint64_t key, int64_t draw) {
    const int32_t* offset = args_.offsets + l * ((int64_t{1} << args_.K) + 1) + code;
    if (offset[0] < 0 || offset[1] < offset[0] || offset[1] > args_.N) return false;
    const int32_t* bucket = args_.rows + l * args_.N + offset[0];
    const int64_t size = offset[1] - offset[0];
    if (size <= args_.cap) {
      for (int64_t i = 0; i < size; ++i) add(bucket[i]);
      return true;
    }
    const int64_t first = draw_below(key, draw, size);
    for (int64_t i = 0; i < args_.cap; ++i) {
      const int64_t at = first + i;
      add(bucket[at < size ? at : at - size]);
    }
    return true;
  }

  void finish() {
    std::fill(candidates_ + count_, candidates_ + args_.C, -1);
    std::fill(hits_ + count_, hits_ + args_.C, 0);
  }

 private:
  void add(int32_t row) {
    const int32_t slot = found_.find(row);
    if (slot >= 0) {
      ++hits_[slot];
    } else if (count_ < args_.C) {
      found_.insert(row, count_);
      candidates_[count_] = row;
      hits_[count_++] = 1;
    }
  }

  const Lookup& args_;
  RowSet found_;
  int32_t* candidates_ = nullptr;
  int32_t* hits_ = nullptr;
  int32_t count_ = 0;
};

}  // namespace

LookupChecks lookup(const Lookup& args, int64_t begin, int64_t end) {
  LookupChecks checks{true, true};
  std::vector<int32_t> codes(args.L);
  std::vector<int32_t> probes(args.P * args.L);
  ProbeSequence sequence(args.K, args.P);
  Collector collector(args);
  for (int64_t b = begin; b < end; ++b) {
    const float* projections = args.projections + b * args.L * args.K;
    checks.finite &= pack_signs(projections, 0, 1, args.L, args.K, codes.data());
    for (int64_t l = 0; l < args.L; ++l) {
      sequence.fill(projections + l * args.K, codes[l], probes.data() + l, args.L);
    }
    collector.start(b);
    const uint64_t key = stream_key(args.seed, args.step, b);
    for (int64_t i = 0; i < args.P * args.L; ++i) {
      checks.tables_ok &= collector.read_bucket(i % args.L, probes[i], key, i);
    }
    collector.finish();
  }
  return checks;
}

}  // namespace hashdl::cpu
