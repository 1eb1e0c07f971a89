#include "cpu/sketch.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

// Candidates ahead that are asked for: their sketches lie anywhere in (N, W).
constexpr int64_t kAhead = 32;

/// Asks for a row's length, and for the ends of its sketch: few are longer than two lines.
template <typename Float>
HASHDL_INLINE void prefetch(const SketchScores<Float>& args, int32_t row) {
  const int64_t some = row < 0 ? 0 : row;
  const int32_t* sketch = args.sketches + some * args.W;
  __builtin_prefetch(sketch);
  __builtin_prefetch(sketch + args.W - 1);
  __builtin_prefetch(args.norms + some);
}

#if defined(__AVX512F__)

// Sixteen candidates at once. Four bits of a row pick one of sixteen sums, which are a register: so
// a permutation adds up four projections of each candidate. Rows are loaded one by one and
// transposed, for gathers are slow on many processors. Intrinsics are the masked ones, with every
// lane in the mask: of the others some compilers say that they use what is not initialized.

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

/// The candidates of a block, -1 = none.
HASHDL_INLINE VecI32 load_ids(const int32_t* candidates, int64_t count) {
  VecI32 ids = VecI32{} - 1;
  if (count == kRows) {
    std::memcpy(&ids, candidates, sizeof(ids));
  } else {
    for (int64_t i = 0; i < count; ++i) ids[i] = candidates[i];
  }
  return ids;
}

/// The rows of a block: one of them stands in for padding. They have none if `any` is false.
struct Block {
  int32_t rows[kRows];
  bool any;

  HASHDL_INLINE explicit Block(VecI32 ids) : any(true) {
    std::memcpy(rows, &ids, sizeof(ids));
    if (_mm512_movepi32_mask(bit_copy<__m512i>(ids)) == 0) return;
    int32_t stand_in = -1;
    for (const int32_t row : rows) stand_in = row > stand_in ? row : stand_in;
    any = stand_in >= 0;
    for (int32_t& row : rows) row = row < 0 ? stand_in : row;
  }

  /// Words w to w + 8 of all sixteen, a vector a word; 0 where `some` leaves a word out.
  HASHDL_INLINE void load_words(const int32_t* sketches, int64_t W, int64_t w, __mmask8 some,
                                __m512i (&words)[kWords]) const {
    const auto words_of = [&](int i) {
      return _mm256_maskz_loadu_epi32(some, sketches + rows[i] * W + w);
    };
    __m512i pairs[8];  // rows 0 and 4, 1 and 5, 2 and 6, 3 and 7, 8 and 12, ...
    for (int i = 0; i < 8; ++i) {
      const int row = i + i / 4 * 4;
      pairs[i] = _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(words_of(row)),
                                          words_of(row + 4), 1);
    }
    __m512i quads[2][4];  // [i][k]: words k and k + 4 of rows 8 i to 8 i + 8, by fours
    for (int i = 0; i < 2; ++i) {
      const __m512i* four = pairs + 4 * i;
      const __m512i a = _mm512_maskz_unpacklo_epi32(0xffff, four[0], four[1]);
      const __m512i b = _mm512_maskz_unpacklo_epi32(0xffff, four[2], four[3]);
      const __m512i c = _mm512_maskz_unpackhi_epi32(0xffff, four[0], four[1]);
      const __m512i d = _mm512_maskz_unpackhi_epi32(0xffff, four[2], four[3]);
      quads[i][0] = _mm512_maskz_unpacklo_epi64(0xff, a, b);
      quads[i][1] = _mm512_maskz_unpackhi_epi64(0xff, a, b);
      quads[i][2] = _mm512_maskz_unpacklo_epi64(0xff, c, d);
      quads[i][3] = _mm512_maskz_unpackhi_epi64(0xff, c, d);
    }
    for (int k = 0; k < 4; ++k) {
      words[k] = _mm512_maskz_shuffle_i32x4(0xffff, quads[0][k], quads[1][k], 0b10001000);
      words[k + 4] = _mm512_maskz_shuffle_i32x4(0xffff, quads[0][k], quads[1][k], 0b11011101);
    }
  }
};

/// Adds what a word's tables say: to four sums, so that one addition need not wait for the others.
HASHDL_INLINE void add_word(VecU32 word, const Vec<float>* tables, Vec<float> (&sums)[4]) {
  for (int64_t j = 0; j < kNibbles; ++j) {
    // The permutation looks at the lowest four bits.
    sums[j % 4] += bit_copy<Vec<float>>(
        _mm512_maskz_permutexvar_ps(0xffff, bit_copy<__m512i>(word), bit_copy<__m512>(tables[j])));
    word >>= 4;
  }
}

HASHDL_INLINE Vec<float> score(const SketchScores<float>& args, const Vec<float>* tables,
                               const int32_t* candidates, int64_t count) {
  const VecI32 ids = load_ids(candidates, count);
  const Block block(ids);
  if (!block.any) return Vec<float>{};
  Vec<float> norms, sums[4] = {};
  for (int64_t i = 0; i < kRows; ++i) norms[i] = args.norms[block.rows[i]];
  for (int64_t w = 0; w < args.W; w += kWords) {
    const int64_t left = args.W - w < kWords ? args.W - w : kWords;
    __m512i words[kWords];
    block.load_words(args.sketches, args.W, w, static_cast<__mmask8>((1 << left) - 1), words);
    for (int64_t i = 0; i < left; ++i) {
      add_word(bit_copy<VecU32>(words[i]), tables + kNibbles * (w + i), sums);
    }
  }
  return ids < 0 ? Vec<float>{} : norms * ((sums[0] + sums[1]) + (sums[2] + sums[3]));
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
      const Vec<float> z = score(args, tables, candidates + c, count);
      float* out = args.scores + b * C + c;
      if (count == kRows) {
        store(out, z);
      } else {
        for (int64_t i = 0; i < count; ++i) out[i] = z[i];
      }
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
