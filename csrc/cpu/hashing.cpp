#include "cpu/hashing.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace hashdl::cpu {

namespace {

/// Without a branch an element: zero times NaN or infinity is NaN.
bool all_finite(const float* values, int64_t count) {
  constexpr int64_t kLanes = 8;
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += values[i + lane] * 0.0f;
  }
  for (; i < count; ++i) sums[0] += values[i] * 0.0f;
  return std::all_of(sums, sums + kLanes, [](float sum) { return sum == 0.0f; });
}

/// The first K of the bytes at `signs`, each 0 or 1, as the low bits of a code. Reads up to 7 bytes
/// more than K.
int32_t pack_bytes(const uint8_t* signs, int64_t K) {
  uint64_t code = 0;
  for (int64_t k = 0; k < K; k += 8) {
    uint64_t eight;
    std::memcpy(&eight, signs + k, 8);
    // Byte i moves to bit 56 + i; no two products meet. Little-endian, as all of torch's platforms.
    code |= (eight * 0x0102040810204080ULL >> 56) << k;
  }
  return static_cast<int32_t>(code & ((uint64_t{1} << K) - 1));
}

}  // namespace

bool pack_signs(const float* projections, int64_t begin, int64_t end, int64_t L, int64_t K,
                int32_t* codes) {
  bool finite = true;
  std::vector<uint8_t> signs(L * K + 8);
  for (int64_t m = begin; m < end; ++m) {
    const float* p = projections + m * L * K;
    finite &= all_finite(p, L * K);
    for (int64_t i = 0; i < L * K; ++i) signs[i] = p[i] > 0;
    for (int64_t l = 0; l < L; ++l) codes[m * L + l] = pack_bytes(signs.data() + l * K, K);
  }
  return finite;
}

bool build_tables(const int32_t* codes, int64_t begin, int64_t end, int64_t N, int64_t L, int64_t K,
                  int32_t* offsets, int32_t* rows) {
  const int64_t buckets = int64_t{1} << K;
  for (int64_t l = begin; l < end; ++l) {
    int32_t* offset = offsets + l * (buckets + 1);
    std::fill(offset, offset + buckets + 1, 0);
    for (int64_t n = 0; n < N; ++n) {
      const int32_t code = codes[n * L + l];
      if (code < 0 || code >= buckets) return false;
      ++offset[code + 1];
    }
    for (int64_t c = 0; c < buckets; ++c) offset[c + 1] += offset[c];
    // Filling moves each offset to its bucket's end, that is one place on; shift them back after.
    int32_t* out = rows + l * N;
    for (int64_t n = 0; n < N; ++n) out[offset[codes[n * L + l]]++] = static_cast<int32_t>(n);
    std::copy_backward(offset, offset + buckets, offset + buckets + 1);
    offset[0] = 0;
  }
  return true;
}

}  // namespace hashdl::cpu
