#include "cpu/hadamard.h"

#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

/// One butterfly of every pair, in the form whose stages are all alike (Pease, J. ACM 1968): what
/// is n / 2 apart comes to stand side by side. The compiler makes vectors of it.
template <typename Float>
HASHDL_INLINE void stage(const Float* __restrict from, Float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n / 2; ++i) {
    const Float a = from[i], b = from[i + n / 2];
    to[2 * i] = a + b;
    to[2 * i + 1] = a - b;
  }
}

/// The transform of one block; answers where it stands: in x or in spare.
template <typename Float>
const Float* transform(const Float* signs, Float* x, Float* spare, int64_t n) {
  for (int64_t round = 0; round < kRounds; ++round) {
    for (int64_t i = 0; i < n; ++i) x[i] *= signs[round * n + i];
    for (int64_t h = 1; h < n; h *= 2) {
      stage(x, spare, n);
      Float* const next = spare;
      spare = x;
      x = next;
    }
  }
  return x;
}

template <typename Float>
void project(const Hadamard<Float>& args, int64_t begin, int64_t end) {
  // Each round lengthens by sqrt(n); a coordinate is one nth of the squared length.
  const Float scale = Float{1} / static_cast<Float>(args.n);
  for (int64_t m = begin; m < end; ++m) {
    const Float* vector = args.vectors + m * args.D;
    Float* out = args.projections + m * args.C;
    for (int64_t block = 0, c = 0; block < args.blocks; ++block) {
      Float* x = args.scratch;
      for (int64_t i = 0; i < args.n; ++i) x[i] = i < args.D ? vector[i] : Float{0};
      const Float* signs = args.signs + block * kRounds * args.n;
      const Float* projected = transform(signs, x, x + args.n, args.n);
      for (; c < args.ends[block]; ++c) out[c] = projected[args.coordinates[c]] * scale;
    }
  }
}

}  // namespace

template <typename Float>
const HadamardKernels<Float>& hadamard_kernels() {
  static constexpr HadamardKernels<Float> kernels{project<Float>};
  return kernels;
}

template const HadamardKernels<float>& hadamard_kernels<float>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
