#include "cpu/signs.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

constexpr int64_t kLanes = VecOf<float>::lanes;

/// Bit i: whether lane i is positive.
HASHDL_INLINE uint64_t positive(Vec<float> v) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(bit_copy<__m512>(v), _mm512_setzero_ps(), _CMP_GT_OQ);
#elif defined(__AVX2__)
  const __m256 above = _mm256_cmp_ps(bit_copy<__m256>(v), _mm256_setzero_ps(), _CMP_GT_OQ);
  return static_cast<uint32_t>(_mm256_movemask_ps(above));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps(_mm_cmpgt_ps(bit_copy<__m128>(v), __m128{})));
#else
  uint64_t bits = 0;
  for (int64_t i = 0; i < kLanes; ++i) bits |= static_cast<uint64_t>(v[i] > 0) << i;
  return bits;
#endif
}

/// Cuts a stream of bits into codes of K.
struct Packer {
  int64_t K;
  int32_t* codes;
  uint64_t bits = 0;  ///< not yet in a code: the lowest `count`
  int64_t count = 0;

  HASHDL_INLINE void append(uint64_t more, int64_t how_many) {
    bits |= more << count;  // fewer than K, at most 31 bits stand there, and 16 come
    count += how_many;
    for (; count >= K; count -= K, bits >>= K) {
      *codes++ = static_cast<int32_t>(bits & ((uint64_t{1} << K) - 1));
    }
  }
};

template <typename Float>
bool pack(const Float* values, int64_t count, int64_t K, int32_t* codes) {
  // No code begins on a boundary of its own: what follows in memory follows in the stream.
  const int64_t size = count * K;
  Packer packer{K, codes};
  Vec<float> sums{};  // zero times NaN or infinity is NaN
  float rest = 0;
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const Vec<float> v = load(values + i);
    sums += v * 0.0f;
    packer.append(positive(v), kLanes);
  }
  for (; i < size; ++i) {
    rest += values[i] * 0.0f;
    packer.append(values[i] > 0, 1);
  }
  return reduce<float>(sums) + rest == 0.0f;
}

}  // namespace

template <typename Float>
const SignKernels<Float>& sign_kernels() {
  static constexpr SignKernels<Float> kernels{pack<Float>};
  return kernels;
}

template const SignKernels<float>& sign_kernels<float>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
