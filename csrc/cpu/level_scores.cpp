#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu/levels.h"
#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

// Candidates in work at once, and candidates ahead that are asked for.
constexpr int64_t kRows = 8, kAhead = 32;

/// The rows of a block of candidates: one of them stands in for padding, none if `any` is false.
struct Block {
  int64_t rows[kRows];
  bool used[kRows];
  bool any = false;

  HASHDL_INLINE Block(const int32_t* candidates, int64_t count) {
    int64_t stand_in = 0;
    for (int64_t i = 0; i < kRows; ++i) {
      used[i] = i < count && candidates[i] >= 0;
      any |= used[i];
      stand_in = used[i] ? candidates[i] : stand_in;
    }
    for (int64_t i = 0; i < kRows; ++i) rows[i] = used[i] ? candidates[i] : stand_in;
  }
};

template <typename Float>
HASHDL_INLINE void prefetch(const LevelScores<Float>& args, int32_t row) {
  const int64_t some = row < 0 ? 0 : row;
  const int32_t* sketch = args.sketches + some * args.W;
  __builtin_prefetch(sketch);
  __builtin_prefetch(sketch + args.W - 1);
  __builtin_prefetch(args.norms + some);
}

#if defined(__AVX2__)

constexpr int64_t kWords = 8;  ///< of a vector
/// Vectors whose products are added in 16 bits: two of 2 * 15 * 127 for each.
constexpr int64_t kNarrow = 4;

HASHDL_INLINE __m256i load_bytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

/// Sums over the lanes of eight vectors.
HASHDL_INLINE __m256i sums_of(const __m256i (&v)[kRows]) {
  const __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
  const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
  return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                          _mm256_permute2x128_si256(a, b, 0x31));
}

/// Adds the products of a vector of every row, which `load` gives: of its low halves of bytes, and
/// of the high ones.
template <typename Load>
HASHDL_INLINE void add_products(const LevelQuery& query, int64_t w, const Load& load,
                                __m256i (&narrow)[kRows]) {
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i even = load_bytes(query.even.data() + 4 * w);
  const __m256i odd = load_bytes(query.odd.data() + 4 * w);
  for (int64_t i = 0; i < kRows; ++i) {
    const __m256i bytes = load(i);
    const __m256i lows = _mm256_and_si256(bytes, low);
    const __m256i highs = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low);
    narrow[i] = _mm256_add_epi16(narrow[i], _mm256_add_epi16(_mm256_maddubs_epi16(lows, even),
                                                             _mm256_maddubs_epi16(highs, odd)));
  }
}

HASHDL_INLINE __m256i lanes() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }

/// For each of some rows the sum of products of levels and integers.
HASHDL_INLINE __m256i products(const int32_t* const (&rows)[kRows], int64_t W,
                               const LevelQuery& query) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[kRows];
  for (int64_t i = 0; i < kRows; ++i) sums[i] = _mm256_setzero_si256();
  for (int64_t first = 0; first < W; first += kNarrow * kWords) {
    const int64_t end = first + kNarrow * kWords < W ? first + kNarrow * kWords : W;
    __m256i narrow[kRows];
    for (int64_t i = 0; i < kRows; ++i) narrow[i] = _mm256_setzero_si256();
    int64_t w = first;
    for (; w + kWords <= end; w += kWords) {
      add_products(query, w, [&](int64_t i) { return load_bytes(rows[i] + w); }, narrow);
    }
    if (w < end) {
      const __m256i some =
          _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(end - w)), lanes());
      add_products(
          query, w, [&](int64_t i) { return _mm256_maskload_epi32(rows[i] + w, some); }, narrow);
    }
    for (int64_t i = 0; i < kRows; ++i) {
      sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(narrow[i], ones));
    }
  }
  return sums_of(sums);
}

HASHDL_INLINE void products(const int32_t* const (&rows)[kRows], int64_t W, const LevelQuery& query,
                            int32_t (&out)[kRows]) {
  const __m256i sums = products(rows, W, query);
  std::memcpy(out, &sums, sizeof(sums));
}

/// Whether a block's candidates stand one after the other, as those of a bucket may.
HASHDL_INLINE bool in_a_row(const int32_t* candidates) {
  const __m256i wanted = _mm256_add_epi32(_mm256_set1_epi32(candidates[0]), lanes());
  return candidates[0] >= 0 &&
         _mm256_movemask_epi8(_mm256_cmpeq_epi32(load_bytes(candidates), wanted)) == -1;
}

/// The scores of a block of rows from `first` on.
HASHDL_INLINE void score_in_a_row(const LevelScores<float>& args, int64_t first, float* out) {
  const int32_t* rows[kRows];
  for (int64_t i = 0; i < kRows; ++i) rows[i] = args.sketches + (first + i) * args.W;
  const __m256i sums = products(rows, args.W, *args.query);
  const __m256i total = _mm256_sub_epi32(_mm256_add_epi32(sums, sums),
                                         _mm256_set1_epi32((kLevels - 1) * args.query->sum));
  const __m256 estimate =
      _mm256_mul_ps(_mm256_set1_ps(args.query->scale), _mm256_cvtepi32_ps(total));
  _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_loadu_ps(args.norms + first), estimate));
}

#else

HASHDL_INLINE void products(const int32_t* const (&rows)[kRows], int64_t W, const LevelQuery& query,
                            int32_t (&out)[kRows]) {
  const int8_t *even = query.even.data(), *odd = query.odd.data();
  for (int64_t i = 0; i < kRows; ++i) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(rows[i]);
    int32_t sum = 0;
    for (int64_t k = 0; k < 4 * W; ++k) sum += (bytes[k] & 15) * even[k] + (bytes[k] >> 4) * odd[k];
    out[i] = sum;
  }
}

#endif

template <typename Float>
HASHDL_INLINE void score(const LevelScores<Float>& args, const Block& block, int64_t count,
                         Float* out) {
  const int32_t* rows[kRows];
  for (int64_t i = 0; i < kRows; ++i) rows[i] = args.sketches + block.rows[i] * args.W;
  int32_t sums[kRows] = {};
  if (block.any) products(rows, args.W, *args.query, sums);
  for (int64_t i = 0; i < count; ++i) {
    // Level v stands for 2 v - 15.
    const int32_t total = 2 * sums[i] - (kLevels - 1) * args.query->sum;
    const Float estimate = args.query->scale * static_cast<Float>(total);
    out[i] = block.used[i] ? args.norms[block.rows[i]] * estimate : Float{0};
  }
}

template <typename Float>
void scores(const LevelScores<Float>& args) {
  for (int64_t c = 0; c < args.C; c += kRows) {
    const int64_t count = args.C - c < kRows ? args.C - c : kRows;
#if defined(__AVX2__)
    if (count == kRows && in_a_row(args.candidates + c)) {
      if (c + kAhead < args.C) prefetch(args, args.candidates[c + kAhead]);
      score_in_a_row(args, args.candidates[c], args.scores + c);
      continue;
    }
#endif
    const int64_t ahead = c + kAhead + kRows < args.C ? c + kAhead + kRows : args.C;
    for (int64_t i = c + kAhead; i < ahead; ++i) prefetch(args, args.candidates[i]);
    score(args, Block(args.candidates + c, count), count, args.scores + c);
  }
}

}  // namespace

template <typename Float>
const LevelKernels<Float>& level_kernels() {
  static constexpr LevelKernels<Float> kernels{scores<Float>};
  return kernels;
}

template const LevelKernels<float>& level_kernels<float>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
