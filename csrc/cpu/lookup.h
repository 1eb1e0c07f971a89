// Look-up of queries in the tables: the rows of the buckets that they probe, a cap on the rows read
// from one bucket, de-duplication, and a count of the tables' hits.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "cpu/row_set.h"

namespace hashdl::cpu {

struct Lookup {
  const int32_t* buckets;  ///< (B, L, P) of the queries, -1 = none
  const int32_t* offsets;  ///< (L, width)
  const int32_t* rows;     ///< (L, N)
  int32_t* candidates;     ///< (B, C), written: distinct rows in order of discovery, then -1
  int32_t* hits;  ///< (B, C), written: in how many probed buckets the row stood; null: not counted,
                  ///< and nothing is read once there are C candidates
  int64_t N, L, P, C;
  int64_t width;  ///< 2^K + 1
  /// Most rows read from one bucket: from a random place on, around the end. It is the same for all
  /// samples of a step: what a sample finds does not depend on those beside it.
  int64_t cap;
  int64_t seed, step;  ///< key of the random places
  /// Candidates are places in `rows`, not what stands there; of one table, whose buckets a query
  /// probes once each.
  bool places = false;
};

/// What was found wrong on the way: a bucket outside [-1, 2^K), one that does not lie within its
/// table. Neither is read.
struct LookupChecks {
  bool buckets_ok, tables_ok;
};

/// One thread's look-ups, with the memory that they share.
class Finder {
 public:
  explicit Finder(const Lookup& args);

  /// The samples in [begin, end). Probe 0 of every table is read first, then probe 1, and so on:
  /// when C candidates are found, what is dropped comes from the least likely buckets. Returns what
  /// this and earlier calls found wrong.
  LookupChecks run(int64_t begin, int64_t end);

 private:
  /// What a probe reads: at most cap of the places of a bucket, from the `start`-th on and going
  /// around its end.
  struct Bucket {
    const int32_t* rows;
    int32_t size, start, read;
  };
  /// Probe 0 of every table, then probe 1, and so on: P * L of them.
  using Query = std::vector<Bucket>;
  static constexpr int64_t kInFlight = 3;  ///< samples that are in work at once

  int32_t bucket(int64_t b, int64_t l, int64_t p) const;
  void probe(int64_t b);   ///< asks for the offsets of the buckets
  void locate(int64_t b);  ///< the buckets; asks for their rows
  static void prefetch_rows(const Bucket& bucket);
  Bucket locate(int64_t l, int32_t code);
  void collect(int64_t b);  ///< distinct rows
  template <bool kHits>
  void collect_distinct(int64_t b);
  bool buckets_differ(int64_t b);
  void copy(int64_t b);  ///< all rows, where one table is all there is
  /// Those at `rows`, or their places.
  void append(const int32_t* rows, int32_t count);
  template <bool kHits>
  void add(const int32_t* rows, int32_t count);

  const Lookup& args_;
  const uint64_t step_key_;
  std::vector<Query> queries_;  ///< sample b's is the (b % kInFlight)-th
  RowMap probed_;
  std::optional<RowMap> found_;  ///< made when first needed
  LookupChecks checks_{true, true};
  int32_t* candidates_ = nullptr;
  int32_t* hits_ = nullptr;
  int32_t count_ = 0;
};

}  // namespace hashdl::cpu
