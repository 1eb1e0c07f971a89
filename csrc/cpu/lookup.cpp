#include "cpu/lookup.h"

#include <algorithm>
#include <numeric>

#include "cpu/random.h"

namespace hashdl::cpu {
namespace {

constexpr int32_t kLine = 16;  ///< row ids of a cache line

}  // namespace

Finder::Finder(const Lookup& args)
    : args_(args),
      step_key_(step_key(args.seed, args.step)),
      queries_(kInFlight, Query(args.P * args.L)),
      probed_(args.P) {}

LookupChecks Finder::run(int64_t begin, int64_t end) {
  // Three samples are in work: while that of sample b is collected, the rows of b + 1 and the
  // offsets of b + 2 are on their way to the cache.
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

/// The p-th bucket of table l, or -1.
int32_t Finder::bucket(int64_t b, int64_t l, int64_t p) const {
  return args_.buckets[(b * args_.L + l) * args_.P + p];
}

void Finder::probe(int64_t b) {
  for (int64_t p = 0; p < args_.P; ++p) {
    for (int64_t l = 0; l < args_.L; ++l) {
      const int32_t code = bucket(b, l, p);
      const bool ok = code >= -1 && code < args_.width - 1;
      checks_.buckets_ok &= ok;
      if (ok) __builtin_prefetch(args_.offsets + l * args_.width + std::max(code, 0));
    }
  }
}

/// The first two lines: most buckets lie across the end of one.
void Finder::prefetch_rows(const Bucket& bucket) {
  const int32_t* first = bucket.rows + bucket.start;
  __builtin_prefetch(first);
  __builtin_prefetch(first + std::min(bucket.read, kLine) - 1);
}

void Finder::locate(int64_t b) {
  const int64_t L = args_.L;
  Query& query = queries_[b % kInFlight];
  for (int64_t i = 0, p = 0, l = 0; i < args_.P * L; ++i) {
    query[i] = locate(l, bucket(b, l, p));
    if (query[i].read > 0 && !args_.places) prefetch_rows(query[i]);
    if (++l == L) l = 0, ++p;
  }
}

/// What is read of a bucket of table l.
Finder::Bucket Finder::locate(int64_t l, int32_t code) {
  if (code < 0 || code >= args_.width - 1) return {nullptr, 0, 0, 0};
  const int32_t* offset = args_.offsets + l * args_.width + code;
  const int32_t first = offset[0], last = offset[1];
  if (first < 0 || last < first || last > args_.N) {
    checks_.tables_ok = false;
    return {nullptr, 0, 0, 0};
  }
  Bucket bucket{args_.rows + l * args_.N + first, last - first, 0, last - first};
  if (bucket.size > args_.cap) {
    const uint64_t key = stream_key(step_key_, code);
    bucket.start = static_cast<int32_t>(draw_below(key, l, bucket.size));
    bucket.read = static_cast<int32_t>(args_.cap);
  }
  return bucket;
}

void Finder::collect(int64_t b) {
  candidates_ = args_.candidates + b * args_.C;
  hits_ = args_.hits == nullptr ? nullptr : args_.hits + b * args_.C;
  count_ = 0;
  if (args_.places || (args_.L == 1 && buckets_differ(b))) {
    copy(b);
  } else if (hits_ == nullptr) {
    collect_distinct<false>(b);
  } else {
    std::fill(hits_, hits_ + args_.C, 0);
    collect_distinct<true>(b);
  }
  std::fill(candidates_ + count_, candidates_ + args_.C, -1);
}

template <bool kHits>
void Finder::collect_distinct(int64_t b) {
  if (!found_) found_.emplace(args_.C);
  found_->clear();
  for (const Bucket& bucket : queries_[b % kInFlight]) {
    if (!kHits && count_ == args_.C) return;
    const int32_t before_end = std::min(bucket.read, bucket.size - bucket.start);
    add<kHits>(bucket.rows + bucket.start, before_end);
    add<kHits>(bucket.rows, bucket.read - before_end);
  }
}

/// Whether a sample probes no bucket of table 0 twice.
bool Finder::buckets_differ(int64_t b) {
  int32_t count = 0;
  probed_.clear();
  for (int64_t p = 0; p < args_.P; ++p) {
    const int32_t code = bucket(b, 0, p);
    if (code < 0) continue;
    if (probed_.number(code, count) != count) return false;
    ++count;
  }
  return true;
}

/// The buckets of one table hold no row twice: nothing to look for.
void Finder::copy(int64_t b) {
  for (const Bucket& bucket : queries_[b % kInFlight]) {
    const int32_t before_end = std::min(bucket.read, bucket.size - bucket.start);
    append(bucket.rows + bucket.start, before_end);
    append(bucket.rows, bucket.read - before_end);
  }
  if (hits_ == nullptr) return;
  std::fill(hits_, hits_ + count_, 1);
  std::fill(hits_ + count_, hits_ + args_.C, 0);
}

void Finder::append(const int32_t* rows, int32_t count) {
  const int32_t fitting = std::min(count, static_cast<int32_t>(args_.C) - count_);
  int32_t* const out = candidates_ + count_;
  if (args_.places) {
    std::iota(out, out + fitting, static_cast<int32_t>(rows - args_.rows));
  } else {
    std::copy(rows, rows + fitting, out);
  }
  count_ += fitting;
}

/// Until there are C candidates; from there on, if they are counted, the hits of those.
template <bool kHits>
void Finder::add(const int32_t* rows, int32_t count) {
  int32_t i = 0;
  for (; i < count && count_ < args_.C; ++i) {
    const int32_t number = found_->number(rows[i], count_);
    candidates_[number] = rows[i];
    if constexpr (kHits) ++hits_[number];
    count_ += number == count_;
  }
  if constexpr (kHits) {
    for (; i < count; ++i) {
      const int32_t number = found_->find(rows[i]);
      if (number >= 0) ++hits_[number];
    }
  }
}

}  // namespace hashdl::cpu
