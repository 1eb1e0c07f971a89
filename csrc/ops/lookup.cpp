#include "cpu/lookup.h"

#include <algorithm>

#include "ops/common.h"

namespace hashdl::ops {
namespace {

std::tuple<Tensor, Tensor> lookup(const Tensor& projections, const Tensor& offsets,
                                  const Tensor& rows, int64_t bits, int64_t probes, int64_t cap,
                                  int64_t candidates, int64_t seed, const Tensor& step) {
  constexpr auto op = "lookup";
  check_dtype(projections, ScalarType::Float, op, "projections");
  check_dtype(offsets, ScalarType::Int, op, "offsets");
  check_dtype(rows, ScalarType::Int, op, "rows");
  check_shape(rows, {-1, -1}, op, "rows");
  const int64_t L = rows.size(0), N = rows.size(1);
  check(bits >= 1 && bits <= 24, op, "bits", "got " + std::to_string(bits) + ", wanted 1 to 24");
  check_shape(offsets, {L, (int64_t{1} << bits) + 1}, op, "offsets");
  check_shape(projections, {-1, L * bits}, op, "projections");
  check(probes >= 1, op, "probes", "got " + std::to_string(probes) + ", wanted 1 or more");
  check(cap >= 1, op, "cap", "got " + std::to_string(cap) + ", wanted 1 or more");
  check(candidates >= 0, op, "candidates",
        "got " + std::to_string(candidates) + ", wanted 0 or more");
  const int64_t B = projections.size(0);
  const Tensor queries = as_contiguous(projections), ends = as_contiguous(offsets);
  const Tensor table_rows = as_contiguous(rows);
  const Tensor found = empty(queries, {B, candidates}, ScalarType::Int);
  const Tensor hits = empty(queries, {B, candidates}, ScalarType::Int);
  const cpu::Lookup args{data<float>(queries),
                         data<int32_t>(ends),
                         data<int32_t>(table_rows),
                         mutable_data<int32_t>(found),
                         mutable_data<int32_t>(hits),
                         N,
                         L,
                         bits,
                         std::min(probes, int64_t{1} << bits),
                         candidates,
                         cap,
                         seed,
                         read_step(step, op)};
  std::atomic<bool> tables_ok{true};
  const bool finite = parallel_all(B, 1, [&](int64_t begin, int64_t end) {
    const cpu::LookupChecks checks = cpu::lookup(args, begin, end);
    if (!checks.tables_ok) tables_ok.store(false, std::memory_order_relaxed);
    return checks.finite;
  });
  check(finite, op, "projections",
        "got NaN or infinity, wanted finite values (is the input finite?)");
  check(tables_ok, op, "offsets", "got a bucket that ends before it starts, or outside rows");
  return {found, hits};
}

}  // namespace
}  // namespace hashdl::ops

STABLE_TORCH_LIBRARY_IMPL(hashdl, CPU, m) { m.impl("lookup", TORCH_BOX(&hashdl::ops::lookup)); }
