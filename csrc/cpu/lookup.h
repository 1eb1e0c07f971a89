// Look-up of queries in the tables: query-directed multiprobe (Lv et al., VLDB 2007), a cap on the
// rows read from one bucket, de-duplication, and a count of the tables' hits.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/probe_sequence.h"
#include "cpu/row_set.h"

namespace hashdl::cpu {

struct Lookup {
  const float* projections;  ///< (B, L * K) of the queries
  const int32_t* offsets;    ///< (L, 2^K + 1)
  const int32_t* rows;       ///< (L, N)
  int32_t* candidates;       ///< (B, C), written: distinct rows in order of discovery, then -1
  int32_t* hits;             ///< (B, C), written: in how many probed buckets the row stood
  int64_t N, L, K, P, C;     ///< P at most 2^K
  int64_t cap;         ///< most rows read from one bucket; from a random place on, around the end
  int64_t seed, step;  ///< key of the random places
};

/// What was found wrong on the way: a projection that is NaN or infinite, a bucket that does not
/// lie within its table (such a bucket is not read).
struct LookupChecks {
  bool finite, tables_ok;
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
  struct Query {
    std::vector<int32_t> codes;
    std::vector<Bucket> buckets;
  };
  static constexpr int64_t kInFlight = 3;  ///< samples that are in work at once

  void probe(int64_t b);    ///< codes; asks for the offsets of their buckets
  void locate(int64_t b);   ///< buckets; asks for their rows
  void collect(int64_t b);  ///< distinct rows
  void add(int32_t row);

  const Lookup& args_;
  ProbeSequence sequence_;
  std::vector<int32_t> codes_;  ///< (L) own codes of the sample that is probed
  std::vector<Query> queries_;  ///< sample b's is the (b % kInFlight)-th
  RowMap found_;
  LookupChecks checks_{true, true};
  int32_t* candidates_ = nullptr;
  int32_t* hits_ = nullptr;
  int32_t count_ = 0;
};

}  // namespace hashdl::cpu
