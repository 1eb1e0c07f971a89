#include "cpu/hashing.h"

#include <algorithm>
#include <utility>

#include "cpu/signs.h"

namespace hashdl::cpu {

bool pack_signs(const float* projections, int64_t begin, int64_t end, int64_t L, int64_t K,
                int32_t* codes) {
  const float* first = projections + begin * L * K;
  return sign_kernels<float>().pack(first, (end - begin) * L, K, codes + begin * L);
}

int64_t high_bits(int64_t K) { return std::min<int64_t>(K / 2, 10); }

bool count_codes(const int32_t* codes, int64_t begin, int64_t end, int64_t K, int32_t* counts) {
  const int64_t H = high_bits(K), low = K - H;
  const uint32_t buckets = uint32_t{1} << K;
  std::fill(counts, counts + (int64_t{1} << H), 0);
  for (int64_t n = begin; n < end; ++n) {
    const uint32_t code = static_cast<uint32_t>(codes[n]);
    if (code >= buckets) return false;
    ++counts[code >> low];
  }
  return true;
}

void place_shelves(int32_t* counts, int64_t P, int64_t K, int32_t* shelves) {
  const int64_t many = int64_t{1} << high_bits(K);
  int32_t place = 0;
  for (int64_t h = 0; h < many; ++h) {
    shelves[h] = place;
    for (int64_t p = 0; p < P; ++p) place += std::exchange(counts[p * many + h], place);
  }
  shelves[many] = place;
}

void fill_shelves(const int32_t* codes, int64_t begin, int64_t end, int64_t K, int32_t* places,
                  Coded* sorted) {
  const int64_t low = K - high_bits(K);
  for (int64_t n = begin; n < end; ++n) {
    sorted[places[codes[n] >> low]++] = {codes[n], static_cast<int32_t>(n)};
  }
}

void fill_buckets(const Coded* sorted, const int32_t* shelves, int64_t begin, int64_t end,
                  int64_t K, int32_t* offsets, int32_t* rows) {
  const int64_t buckets = int64_t{1} << (K - high_bits(K));  // a shelf
  for (int64_t h = begin; h < end; ++h) {
    int32_t* first = offsets + h * buckets;
    std::fill(first, first + buckets, 0);
    for (int32_t i = shelves[h]; i < shelves[h + 1]; ++i) ++offsets[sorted[i].code];
    int32_t place = shelves[h];
    for (int64_t c = 0; c < buckets; ++c) place += std::exchange(first[c], place);
    for (int32_t i = shelves[h]; i < shelves[h + 1]; ++i) {
      rows[offsets[sorted[i].code]++] = sorted[i].row;
    }
    // Filling has moved each offset to its bucket's end, that is one place on.
    std::copy_backward(first, first + buckets - 1, first + buckets);
    first[0] = shelves[h];
  }
}

bool limit_offsets(const LimitBuckets& args) {
  if (args.offsets[0] < 0 || args.offsets[args.buckets] > args.N) return false;
  int32_t place = 0;
  for (int64_t c = 0; c < args.buckets; ++c) {
    const int64_t size = int64_t{args.offsets[c + 1]} - args.offsets[c];
    if (size < 0) return false;
    args.limited_offsets[c] = place;
    place += static_cast<int32_t>(std::min(size, args.capacity));
  }
  args.limited_offsets[args.buckets] = place;
  return true;
}

void limit_rows(const LimitBuckets& args, int64_t begin, int64_t end) {
  for (int64_t c = begin; c < end; ++c) limit_bucket(args, c);
}

}  // namespace hashdl::cpu
