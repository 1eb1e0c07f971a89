#include "cpu/sketch.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

// Candidates ahead that are asked for: their sketches lie anywhere in (N, W).
constexpr int64_t kAhead = 32;

template <typename Float>
HASHDL_INLINE void prefetch(const SketchScores<Float>& args, int32_t row) {
  if (row < 0) return;
  prefetch_row(args.sketches + static_cast<int64_t>(row) * args.W, args.W);
  __builtin_prefetch(args.norms + row);
}

#if defined(__AVX512F__)

// Sixteen candidates at once. Four bits of a row pick one of sixteen sums, which are a register: so
// a permutation adds up four projections of each candidate. Rows are loaded one by one and
// transposed, for gathers are slow on many processors.

constexpr int64_t kRows = 16;
constexpr int64_t kNibbles = 8;  ///< of a word
constexpr int64_t kWords = 8;    ///< of a row that are loaded at once

/// Entry i of a table: the sum of four projections, with a plus where i has their bit.
HASHDL_INLINE void fill_tables(const float* query, int64_t W, Vec<float>* tables) {
  VecI32 entry;
  for (int i = 0; i < kRows; ++i) entry[i] = i;
  for (int64_t t = 0; t < kNibbles * W; ++t) {
    tables[t] = Vec<float>{};
    for (int k = 0; k < 4; ++k) {
      const Vec<float> value = Vec<float>{} + query[4 * t + k];
      tables[t] += (entry & (1 << k)) != 0 ? value : -value;
    }
  }
}

/// The candidates of a block. Those that are padding have the sketch of another one, and norm 0.
struct Block {
  const int32_t* sketches[kRows];
  Vec<float> norms;
  bool any;

  HASHDL_INLINE Block(const SketchScores<float>& args, const int32_t* candidates, int64_t count)
      : norms{}, any(false) {
    const int32_t* stand_in = args.sketches;
    for (int64_t i = 0; i < kRows; ++i) {
      const int64_t row = i < count ? candidates[i] : -1;
      any |= row >= 0;
      sketches[i] = row < 0 ? nullptr : args.sketches + row * args.W;
      norms[i] = row < 0 ? 0.0f : args.norms[row];
      stand_in = row < 0 ? stand_in : sketches[i];
    }
    for (const int32_t*& sketch : sketches) sketch = sketch == nullptr ? stand_in : sketch;
  }

  /// Words w to w + 8 of all sixteen, a vector a word; 0 where `some` leaves a word out.
  HASHDL_INLINE void load_words(int64_t w, __mmask8 some, __m512i (&words)[kWords]) const {
    __m512i pairs[8];  // rows 0 and 4, 1 and 5, 2 and 6, 3 and 7, 8 and 12, ...
    for (int i = 0; i < 8; ++i) {
      const int row = i + i / 4 * 4;
      const __m256i low = _mm256_maskz_loadu_epi32(some, sketches[row] + w);
      const __m256i high = _mm256_maskz_loadu_epi32(some, sketches[row + 4] + w);
      pairs[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
    __m512i quads[2][4];  // [i][k]: words k and k + 4 of rows 8 i to 8 i + 8, by fours
    for (int i = 0; i < 2; ++i) {
      const __m512i* four = pairs + 4 * i;
      const __m512i a = _mm512_unpacklo_epi32(four[0], four[1]);
      const __m512i b = _mm512_unpacklo_epi32(four[2], four[3]);
      const __m512i c = _mm512_unpackhi_epi32(four[0], four[1]);
      const __m512i d = _mm512_unpackhi_epi32(four[2], four[3]);
      quads[i][0] = _mm512_unpacklo_epi64(a, b);
      quads[i][1] = _mm512_unpackhi_epi64(a, b);
      quads[i][2] = _mm512_unpacklo_epi64(c, d);
      quads[i][3] = _mm512_unpackhi_epi64(c, d);
    }
    for (int k = 0; k < 4; ++k) {
      words[k] = _mm512_shuffle_i32x4(quads[0][k], quads[1][k], 0b10001000);
      words[k + 4] = _mm512_shuffle_i32x4(quads[0][k], quads[1][k], 0b11011101);
    }
  }
};

/// Adds what a word's tables say: to two sums, so that one addition need not wait for the other.
HASHDL_INLINE void add_word(VecU32 word, const Vec<float>* tables, Vec<float> (&sums)[2]) {
  for (int64_t j = 0; j < kNibbles; ++j) {
    // The permutation looks at the lowest four bits.
    sums[j % 2] += bit_copy<Vec<float>>(
        _mm512_maskz_permutexvar_ps(0xffff, bit_copy<__m512i>(word), bit_copy<__m512>(tables[j])));
    word >>= 4;
  }
}

HASHDL_INLINE Vec<float> score(const Block& block, const Vec<float>* tables, int64_t W) {
  Vec<float> sums[2] = {};
  for (int64_t w = 0; w < W; w += kWords) {
    const int64_t count = W - w < kWords ? W - w : kWords;
    __m512i words[kWords];
    block.load_words(w, static_cast<__mmask8>((1 << count) - 1), words);
    for (int64_t i = 0; i < count; ++i) {
      add_word(bit_copy<VecU32>(words[i]), tables + kNibbles * (w + i), sums);
    }
  }
  return block.norms == 0.0f ? Vec<float>{} : block.norms * (sums[0] + sums[1]);
}

template <typename Float>
void scores(const SketchScores<Float>& args, int64_t begin, int64_t end) {
  const int64_t W = args.W, C = args.C;
  Vec<float>* const tables = new Vec<float>[kNibbles * W];
  for (int64_t b = begin; b < end; ++b) {
    fill_tables(args.queries + b * 32 * W, W, tables);
    const int32_t* candidates = args.candidates + b * C;
    for (int64_t c = 0; c < C; c += kRows) {
      const int64_t count = C - c < kRows ? C - c : kRows;
      const int64_t ahead = c + kAhead + kRows < C ? c + kAhead + kRows : C;
      for (int64_t i = c + kAhead; i < ahead; ++i) prefetch(args, candidates[i]);
      const Block block(args, candidates + c, count);
      const Vec<float> z = block.any ? score(block, tables, W) : Vec<float>{};
      std::memcpy(args.scores + b * C + c, &z, count * sizeof(float));
    }
  }
  delete[] tables;
}

#else

constexpr int64_t kLanes = VecOf<float>::lanes, kVectors = 32 / kLanes;

/// Lane i of the v-th vector of a word: its bit v * kLanes + i.
HASHDL_INLINE VecI32 bits_of(int64_t v) {
  VecI32 bits;
  for (int64_t i = 0; i < kLanes; ++i) bits[i] = static_cast<int32_t>(1u << (v * kLanes + i));
  return bits;
}

/// Sum of the query's projections whose bits are set.
HASHDL_INLINE float sum_of_set(const float* query, const int32_t* sketch, int64_t W) {
  Vec<float> sums[kVectors] = {};
  for (int64_t w = 0; w < W; ++w) {
    const VecI32 word = VecI32{} + sketch[w];
    for (int64_t v = 0; v < kVectors; ++v) {
      const Vec<float> values = load(query + 32 * w + v * kLanes);
      sums[v] += (word & bits_of(v)) != 0 ? values : Vec<float>{};
    }
  }
  Vec<float> sum = sums[0];
  for (int64_t v = 1; v < kVectors; ++v) sum += sums[v];
  return reduce<float>(sum);
}

template <typename Float>
void scores(const SketchScores<Float>& args, int64_t begin, int64_t end) {
  const int64_t W = args.W, C = args.C;
  for (int64_t b = begin; b < end; ++b) {
    const Float* query = args.queries + b * 32 * W;
    const int32_t* candidates = args.candidates + b * C;
    Float* out = args.scores + b * C;
    Vec<float> parts{};
    for (int64_t k = 0; k < 32 * W; k += kLanes) parts += load(query + k);
    const Float total = reduce<float>(parts);
    for (int64_t c = 0; c < C; ++c) {
      if (c + kAhead < C) prefetch(args, candidates[c + kAhead]);
      const int64_t row = candidates[c];
      // Set bits count once, the others minus once.
      out[c] = row < 0
                   ? Float{0}
                   : args.norms[row] * (2 * sum_of_set(query, args.sketches + row * W, W) - total);
    }
  }
}

#endif

}  // namespace

template <typename Float>
const SketchKernels<Float>& sketch_kernels() {
  static constexpr SketchKernels<Float> kernels{scores<Float>};
  return kernels;
}

template const SketchKernels<float>& sketch_kernels<float>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
