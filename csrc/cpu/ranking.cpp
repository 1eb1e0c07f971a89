#include "cpu/ranking.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

constexpr int64_t kLanes = VecOf<float>::lanes;
static_assert(kLanes <= RankingKernels<float>::kRoom);

// Orders that are worth a place of their own while a threshold among them is looked for.
constexpr int64_t kFew = 512;

HASHDL_INLINE VecU32 load_orders(const uint32_t* p) {
  VecU32 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

/// descending_bits of each lane.
HASHDL_INLINE VecU32 order_of(Vec<float> score) {
  const VecI32 bits = bit_copy<VecI32>(score + 0.0f);  // -0 and 0 are a tie
  const VecI32 order = bits ^ (~(bits >> 31) & 0x7fffffff);
  return score != score ? VecU32{} + 0xff800000u : bit_copy<VecU32>(order);
}

/// `count` lanes of candidates, then -1; of scores, then 0.
HASHDL_INLINE VecU32 order_some(const int32_t* candidates, const float* scores, int64_t count) {
  VecI32 rows = VecI32{} - 1;
  Vec<float> values{};
  if (count == kLanes) {
    std::memcpy(&rows, candidates, sizeof(rows));
    if (scores != nullptr) values = load(scores);
  } else {
    for (int64_t i = 0; i < count; ++i) rows[i] = candidates[i];
    for (int64_t i = 0; i < count && scores != nullptr; ++i) values[i] = scores[i];
  }
  return rows < 0 ? VecU32{} + kUnranked : order_of(values);
}

template <typename Float>
int64_t order(const int32_t* candidates, const Float* scores, int64_t C, uint32_t* orders) {
  VecI32 last = VecI32{} - 1;  // of each lane, the last vector where it is ranked
  for (int64_t c = 0; c < C; c += kLanes) {
    const int64_t count = C - c < kLanes ? C - c : kLanes;
    const VecU32 v = order_some(candidates + c, scores == nullptr ? nullptr : scores + c, count);
    std::memcpy(orders + c, &v, sizeof(v));
    last = v != kUnranked ? VecI32{} + static_cast<int32_t>(c / kLanes) : last;
  }
  int32_t vectors = 0;
  for (int64_t i = 0; i < kLanes; ++i) vectors = last[i] >= vectors ? last[i] + 1 : vectors;
  return vectors * kLanes < C ? vectors * kLanes : C;
}

/// Whether any lane of a comparison holds.
HASHDL_INLINE bool any(VecI32 mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(bit_copy<__m512i>(mask)) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8(bit_copy<__m256i>(mask)) != 0;
#else
  return ((mask[0] | mask[1]) | (mask[2] | mask[3])) != 0;
#endif
}

/// How many orders are `most` or less.
HASHDL_INLINE int64_t count_up_to(const uint32_t* orders, int64_t C, uint32_t most) {
  VecI32 counts{};
  for (int64_t c = 0; c < C; c += kLanes) counts -= load_orders(orders + c) <= most;
  int64_t count = 0;
  for (int64_t i = 0; i < kLanes; ++i) count += counts[i];
  return count;
}

/// Where the orders that are `most` or less stand, in order; how many.
template <typename Float>
int64_t find_up_to(const uint32_t* orders, int64_t C, uint32_t most, int32_t* places) {
  int64_t count = 0;
  for (int64_t c = 0; c < C; c += kLanes) {
    const VecU32 v = load_orders(orders + c);
    if (!any(v <= most)) continue;
    const int64_t end = C - c < kLanes ? C - c : kLanes;
    for (int64_t i = 0; i < end; ++i) {
      places[count] = static_cast<int32_t>(c + i);
      count += v[i] <= most;
    }
  }
  return count;
}

/// By bisection of the orders, which costs a pass over them for each halving.
template <typename Float>
RankThreshold threshold(const uint32_t* orders, int64_t C, int64_t budget) {
  if (budget <= 0) return {0, 0};
  uint32_t few[kFew + kLanes];
  VecU32 least = VecU32{} + kUnranked, most{};
  for (int64_t c = 0; c < C; c += kLanes) {
    const VecU32 v = load_orders(orders + c), ranked = v == kUnranked ? VecU32{} : v;
    least = v < least ? v : least;
    most = ranked > most ? ranked : most;
  }
  uint32_t low = kUnranked, high = 0;  // the last of the budget lies between
  for (int64_t i = 0; i < kLanes; ++i) {
    low = least[i] < low ? least[i] : low;
    high = most[i] > high ? most[i] : high;
  }
  if (low > high || count_up_to(orders, C, high) <= budget) return {kUnranked - 1, C};
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    const int64_t count = count_up_to(orders, C, middle);
    if (count == budget) return {middle, C};
    if (count > budget) {
      high = middle;
      if (count <= kFew && C > kFew) {  // from here on, all that matter
        int32_t places[kFew + 1];
        find_up_to<Float>(orders, C, high, places);
        for (int64_t i = 0; i < kFew + kLanes; ++i) {
          few[i] = i < count ? orders[places[i]] : kUnranked;
        }
        orders = few;
        C = count;
      }
    } else {
      low = middle + 1;
    }
  }
  return {low, budget - (low == 0 ? 0 : count_up_to(orders, C, low - 1))};
}

}  // namespace

template <typename Float>
const RankingKernels<Float>& ranking_kernels() {
  static constexpr RankingKernels<Float> kernels{order<Float>, threshold<Float>, find_up_to<Float>};
  return kernels;
}

template const RankingKernels<float>& ranking_kernels<float>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
