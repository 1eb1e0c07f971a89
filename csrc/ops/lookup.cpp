// lookup.
#include "ops/lookup.h"

#include <algorithm>

namespace hashdl::ops {

LookupCall::LookupCall(const char* op, const Tensor& projections, const Tensor& offsets,
                       const Tensor& rows, int64_t bits, int64_t probes, int64_t cap,
                       int64_t candidates, int64_t seed, const Tensor& step)
    : op_(op) {
  check_dtype(projections, ScalarType::Float, op, "projections");
  check_dtype(offsets, ScalarType::Int, op, "offsets");
  check_dtype(rows, ScalarType::Int, op, "rows");
  check_shape(rows, {-1, -1}, op, "rows");
  const int64_t L = rows.size(0), N = rows.size(1);
  check_bits(bits, op);
  check_shape(offsets, {L, (int64_t{1} << bits) + 1}, op, "offsets");
  check_shape(projections, {-1, L * bits}, op, "projections");
  check(probes >= 1, op, "probes", "got " + std::to_string(probes) + ", wanted 1 or more");
  check(cap >= 1, op, "cap", "got " + std::to_string(cap) + ", wanted 1 or more");
  check(candidates >= 0, op, "candidates",
        "got " + std::to_string(candidates) + ", wanted 0 or more");
  const int64_t B = projections.size(0);
  queries_ = as_contiguous(projections);
  ends_ = as_contiguous(offsets);
  table_rows_ = as_contiguous(rows);
  found = empty(queries_, {B, candidates}, ScalarType::Int);
  hits = empty(queries_, {B, candidates}, ScalarType::Int);
  args = {data<float>(queries_),
          data<int32_t>(ends_),
          data<int32_t>(table_rows_),
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
}

void LookupCall::note(const cpu::LookupChecks& checks) {
  if (!checks.finite) finite_.store(false, std::memory_order_relaxed);
  if (!checks.tables_ok) tables_ok_.store(false, std::memory_order_relaxed);
}

void LookupCall::check_noted() const {
  check(finite_, op_, "projections",
        "got NaN or infinity, wanted finite values (is the input finite?)");
  check(tables_ok_, op_, "offsets", "got a bucket that ends before it starts, or outside rows");
}

namespace {

std::tuple<Tensor, Tensor> lookup(const Tensor& projections, const Tensor& offsets,
                                  const Tensor& rows, int64_t bits, int64_t probes, int64_t cap,
                                  int64_t candidates, int64_t seed, const Tensor& step) {
  LookupCall call("lookup", projections, offsets, rows, bits, probes, cap, candidates, seed, step);
  torch::stable::parallel_for(0, projections.size(0), 1, [&](int64_t begin, int64_t end) {
    call.note(cpu::Finder(call.args).run(begin, end));
  });
  call.check_noted();
  return {call.found, call.hits};
}

}  // namespace
}  // namespace hashdl::ops

STABLE_TORCH_LIBRARY_IMPL(hashdl, CPU, m) { m.impl("lookup", TORCH_BOX(&hashdl::ops::lookup)); }
