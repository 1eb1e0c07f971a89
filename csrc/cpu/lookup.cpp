#include "cpu/lookup.h"

#include <algorithm>

#include "cpu/hashing.h"
#include "cpu/random.h"

namespace hashdl::cpu {

Finder::Finder(const Lookup& args)
    : args_(args), sequence_(args.K, args.P), codes_(args.L), queries_(kInFlight), found_(args.C) {
  for (Query& query : queries_) {
    query.codes.resize(args.P * args.L);
    query.buckets.resize(args.P * args.L);
  }
}

LookupChecks Finder::run(int64_t begin, int64_t end) {
  // Three samples are in work: while the codes of sample b + 2 are made, the offsets of b + 1 and
  // the rows of b are on their way to the cache.
  if (begin < end) probe(begin);
  if (begin + 1 < end) probe(begin + 1);
  if (begin < end) locate(begin);
  for (int64_t b = begin; b < end; ++b) {
    if (b + 2 < end) probe(b + 2);
    if (b + 1 < end) locate(b + 1);
    collect(b);
  }
  return checks_;
}

void Finder::probe(int64_t b) {
  const int64_t L = args_.L, K = args_.K, width = (int64_t{1} << K) + 1;
  Query& query = queries_[b % kInFlight];
  const float* projections = args_.projections + b * L * K;
  checks_.finite &= pack_signs(projections, 0, 1, L, K, codes_.data());
  for (int64_t l = 0; l < L; ++l) {
    sequence_.fill(projections + l * K, codes_[l], query.codes.data() + l, L);
  }
  for (int64_t p = 0; p < args_.P; ++p) {
    for (int64_t l = 0; l < L; ++l) {
      __builtin_prefetch(args_.offsets + l * width + query.codes[p * L + l]);
    }
  }
}

void Finder::locate(int64_t b) {
  const int64_t L = args_.L, width = (int64_t{1} << args_.K) + 1;
  Query& query = queries_[b % kInFlight];
  const uint64_t key = stream_key(args_.seed, args_.step, b);
  for (int64_t i = 0, l = 0; i < args_.P * L; ++i, l = l + 1 < L ? l + 1 : 0) {
    const int32_t* offset = args_.offsets + l * width + query.codes[i];
    const int32_t first = offset[0], last = offset[1];
    if (first < 0 || last < first || last > args_.N) {
      checks_.tables_ok = false;
      query.buckets[i] = {nullptr, 0, 0, 0};
      continue;
    }
    Bucket bucket{args_.rows + l * args_.N + first, last - first, 0, last - first};
    if (bucket.size > args_.cap) {
      bucket.start = static_cast<int32_t>(draw_below(key, i, bucket.size));
      bucket.read = static_cast<int32_t>(args_.cap);
    }
    if (bucket.read > 0) __builtin_prefetch(bucket.rows + bucket.start);
    query.buckets[i] = bucket;
  }
}

void Finder::collect(int64_t b) {
  candidates_ = args_.candidates + b * args_.C;
  hits_ = args_.hits + b * args_.C;
  count_ = 0;
  found_.clear();
  std::fill(hits_, hits_ + args_.C, 0);
  for (const Bucket& bucket : queries_[b % kInFlight].buckets) {
    const int32_t before_end = std::min(bucket.read, bucket.size - bucket.start);
    for (int32_t i = 0; i < before_end; ++i) add(bucket.rows[bucket.start + i]);
    for (int32_t i = 0; i < bucket.read - before_end; ++i) add(bucket.rows[i]);
  }
  std::fill(candidates_ + count_, candidates_ + args_.C, -1);
}

void Finder::add(int32_t row) {
  if (count_ == args_.C) {
    const int32_t number = found_.find(row);
    if (number >= 0) ++hits_[number];
    return;
  }
  const int32_t number = found_.number(row, count_);
  candidates_[number] = row;
  ++hits_[number];
  count_ += number == count_;
}

}  // namespace hashdl::cpu
