// The device-wide algorithms that the kernels take from CUB, on the host: first asked for the size
// of their memory, then run.
#pragma once

#include <algorithm>
#include <numeric>
#include <type_traits>
#include <vector>

#include "cuda_runtime.h"

namespace cub {

struct DeviceRadixSort {
  template <typename Key, typename Value, typename Count>
  static cudaError_t SortPairs(void* memory, size_t& bytes, const Key* keys, Key* sorted_keys,
                               const Value* values, Value* sorted_values, Count count, int begin,
                               int end, cudaStream_t) {
    if (memory == nullptr) return bytes = 1, cudaSuccess;
    const auto digits = [&](Count i) {
      const uint64_t key = static_cast<std::make_unsigned_t<Key>>(keys[i]);
      return (key & ((uint64_t{1} << end) - 1)) >> begin;
    };
    std::vector<Count> order(count);
    std::iota(order.begin(), order.end(), Count{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](Count a, Count b) { return digits(a) < digits(b); });
    for (Count i = 0; i < count; ++i) {
      sorted_keys[i] = keys[order[i]];
      sorted_values[i] = values[order[i]];
    }
    return cudaSuccess;
  }
};

struct DeviceScan {
  template <typename Value, typename Count>
  static cudaError_t InclusiveSum(void* memory, size_t& bytes, const Value* values, Value* sums,
                                  Count count, cudaStream_t) {
    if (memory == nullptr) return bytes = 1, cudaSuccess;
    std::inclusive_scan(values, values + count, sums);
    return cudaSuccess;
  }
};

}  // namespace cub
