#include "cpu/best_outputs.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "cpu/gather_linear.h"

namespace hashdl::cpu {
namespace {

/// The numbers to compare: float32 of the 16-bit ones.
template <typename T>
const Accumulate<T>* widened(const T* z, int64_t count, std::vector<Accumulate<T>>& memory) {
  if constexpr (std::is_same_v<T, Accumulate<T>>) {
    return z;
  } else {
    memory.resize(count);
    gather_linear_kernels<T>().widen(z, memory.data(), count);
    return memory.data();
  }
}

}  // namespace

template <typename T>
void best_outputs(const BestOutputs<T>& args, int64_t begin, int64_t end) {
  std::vector<Accumulate<T>> memory;
  std::vector<int32_t> places(args.A);
  for (int64_t b = begin; b < end; ++b) {
    const T* z = args.z + b * args.A;
    const int32_t* rows = args.rows + b * args.A;
    T* values = args.values + b * args.k;
    int64_t* best = args.best + b * args.k;
    const int64_t found = std::find(rows, rows + args.A, -1) - rows;
    const int64_t count = std::min(found, args.k);
    const Accumulate<T>* wide = widened(z, found, memory);
    std::iota(places.begin(), places.begin() + found, 0);
    std::partial_sort(
        places.begin(), places.begin() + count, places.begin() + found,
        [wide](int32_t i, int32_t j) { return comes_before(wide[i], i, wide[j], j); });
    for (int64_t i = 0; i < count; ++i) {
      values[i] = z[places[i]];
      best[i] = rows[places[i]];
    }
    std::fill(values + count, values + args.k, lowest<T>());
    std::fill(best + count, best + args.k, -1);
  }
}

template void best_outputs(const BestOutputs<float>&, int64_t, int64_t);
template void best_outputs(const BestOutputs<double>&, int64_t, int64_t);
template void best_outputs(const BestOutputs<BFloat16>&, int64_t, int64_t);
template void best_outputs(const BestOutputs<Half>&, int64_t, int64_t);

}  // namespace hashdl::cpu
