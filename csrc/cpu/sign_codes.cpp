#include "cpu/sign_codes.h"

#include <type_traits>

#include "cpu/signs.h"
#include "cpu/tile.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

constexpr int64_t kLanes = VecOf<float>::lanes;
constexpr int kRows = kTileRows, kVectors = kTileVectors;

/// Rows m to m + R as floats.
template <int R, typename T>
HASHDL_INLINE void read_rows(const SignCodes<T>& args, int64_t m, const SignCodesRoom& room,
                             const float* (&rows)[R]) {
  for (int r = 0; r < R; ++r) {
    const T* row = args.weight + (m + r) * args.d;
    if constexpr (std::is_same_v<T, float>) {
      rows[r] = row;
    } else {
      float* copy = room.rows + r * args.d;
      for (int64_t k = 0; k < args.d; ++k) copy[k] = static_cast<float>(load1(row + k));
      rows[r] = copy;
    }
  }
}

/// Projections of R rows, and of their biases, by V vectors of columns from f on.
template <int R, int V, typename T>
HASHDL_INLINE void project_tile(const SignCodes<T>& args, const float* const (&rows)[R],
                                const float (&biases)[R], int64_t f, float* projections) {
  Vec<float> sums[R][V];
  for (int v = 0; v < V; ++v) {
    const Vec<float> offset = load(args.offsets + f + v * kLanes);
    for (int r = 0; r < R; ++r) sums[r][v] = offset;
  }
  const float* planes = args.planes + f;
  add_product_of_rows(rows, planes, args.W, args.d, sums);
  add_products(biases, planes + args.d * args.W, sums);
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) store(projections + r * args.W + f + v * kLanes, sums[r][v]);
  }
}

/// Tiles of V vectors while there are so many, then of fewer.
template <int R, int V, typename T>
HASHDL_INLINE void project_columns(const SignCodes<T>& args, const float* const (&rows)[R],
                                   const float (&biases)[R], int64_t f, float* projections) {
  for (; f + V * kLanes <= args.W; f += V * kLanes) {
    project_tile<R, V>(args, rows, biases, f, projections);
  }
  if constexpr (V > 1) project_columns<R, V - 1>(args, rows, biases, f, projections);
}

template <int R, typename T>
bool hash_rows(const SignCodes<T>& args, int64_t m, const SignCodesRoom& room) {
  const float* rows[R];
  float biases[R];
  read_rows<R>(args, m, room, rows);
  for (int r = 0; r < R; ++r) {
    biases[r] = args.bias == nullptr ? 0.0f : static_cast<float>(load1(args.bias + m + r));
  }
  float* projections = room.projections;
  project_columns<R, kVectors>(args, rows, biases, 0, projections);
  bool finite = true;
  int32_t* codes = room.codes;
  for (int r = 0; r < R; ++r) {
    finite &=
        sign_kernels<float>().pack(projections + r * args.W, args.L, args.K, codes + r * args.L);
  }
  for (int64_t l = 0; l < args.L; ++l) {
    for (int r = 0; r < R; ++r) args.codes[l * args.M + m + r] = codes[r * args.L + l];
  }
  return finite;
}

template <typename T>
bool codes(const SignCodes<T>& args, int64_t begin, int64_t end, const SignCodesRoom& room) {
  bool finite = true;
  int64_t m = begin;
  for (; m + kRows <= end; m += kRows) finite &= hash_rows<kRows>(args, m, room);
  for (; m < end; ++m) finite &= hash_rows<1>(args, m, room);
  return finite;
}

}  // namespace

template <typename T>
const SignCodesKernels<T>& sign_codes_kernels() {
  static constexpr SignCodesKernels<T> kernels{kLanes, kRows, codes<T>};
  return kernels;
}

template const SignCodesKernels<float>& sign_codes_kernels<float>();
template const SignCodesKernels<double>& sign_codes_kernels<double>();
template const SignCodesKernels<BFloat16>& sign_codes_kernels<BFloat16>();
template const SignCodesKernels<Half>& sign_codes_kernels<Half>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
