// hadamard_projections.
#include "cpu/hadamard.h"

#include <bit>

#include "cpu/random.h"
#include "cuda/hadamard.h"
#include "ops/common.h"

namespace hashdl::ops {
namespace {

/// The blocks of the functions: columns side by side that have the same key.
class Blocks {
 public:
  Blocks(const int32_t* keys, int64_t C, int64_t n) {
    for (int64_t c = 0; c < C; ++c) {
      if (c + 1 < C && keys[c + 1] == keys[c]) continue;
      ends.push_back(c + 1);
      for (int64_t round = 0; round < cpu::kRounds; ++round) append_signs(keys[c], round, n);
    }
  }

  std::vector<int64_t> ends;
  std::vector<float> signs;

 private:
  /// A bit a sign, 64 of them from a random number.
  void append_signs(int32_t key, int64_t round, int64_t n) {
    uint64_t word = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (i % 64 == 0) word = cpu::stream_key(key, round, i / 64);
      signs.push_back((word >> (i % 64)) & 1 ? -1.0f : 1.0f);
    }
  }
};

Tensor hadamard_projections(const Tensor& vectors, const Tensor& functions) {
  constexpr auto op = "hadamard_projections";
  check_dtype(vectors, ScalarType::Float, op, "vectors");
  check_shape(vectors, {-1, -1}, op, "vectors");
  check_dtype(functions, ScalarType::Int, op, "functions");
  check_shape(functions, {2, -1}, op, "functions");
  const int64_t M = vectors.size(0), D = vectors.size(1), C = functions.size(1);
  const auto n =
      static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(D, 1))));
  const Tensor source = as_contiguous(vectors), columns = as_contiguous(functions);
  const int32_t* keys = data<int32_t>(columns);
  const int32_t* coordinates = keys + C;
  const Tensor projections = empty(source, {M, C}, ScalarType::Float);
  check_one_device(op, {source, columns});
  if constexpr (kCuda) {
    if (is_cuda(source)) {
      const cuda::Hadamard args{
          data<float>(source), keys, coordinates, mutable_data<float>(projections), M, D, n, C};
      run_with_scratch(source, [&](cuda::Scratch& scratch, cuda::Stream stream) {
        cuda::hadamard(args, scratch, stream);
      });
      return projections;
    }
  }
  for (int64_t c = 0; c < C; ++c) {
    check(coordinates[c] >= 0 && coordinates[c] < n, op, "functions",
          "got coordinate " + std::to_string(coordinates[c]) + ", wanted 0 to " +
              std::to_string(n - 1));
  }
  const Blocks blocks(keys, C, n);
  const auto project = cpu::hadamard_kernels<float>().project;
  torch::stable::parallel_for(0, M, 16, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * n);
    project({data<float>(source), blocks.signs.data(), coordinates, blocks.ends.data(),
             mutable_data<float>(projections), scratch.data(), D, n,
             static_cast<int64_t>(blocks.ends.size()), C},
            begin, end);
  });
  return projections;
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) { m.impl("hadamard_projections", TORCH_BOX(&hashdl::ops::hadamard_projections)); }
