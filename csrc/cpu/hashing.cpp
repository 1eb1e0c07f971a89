#include "cpu/hashing.h"

#include <algorithm>
#include <cmath>

namespace hashdl::cpu {

bool pack_signs(const float* projections, int64_t begin, int64_t end, int64_t L, int64_t K,
                int32_t* codes) {
  bool finite = true;
  for (int64_t m = begin; m < end; ++m) {
    for (int64_t l = 0; l < L; ++l) {
      const float* p = projections + (m * L + l) * K;
      int32_t code = 0;
      for (int64_t k = 0; k < K; ++k) {
        code |= static_cast<int32_t>(p[k] > 0) << k;
        finite &= std::isfinite(p[k]);
      }
      codes[m * L + l] = code;
    }
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
