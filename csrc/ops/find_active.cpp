// find_active: look-up, scores and selection of a sample in one go, while its candidates are in
// cache, and the outputs of the rows selected.
#include <algorithm>

#include "cpu/hashing.h"
#include "ops/gather_linear.h"
#include "ops/lookup.h"
#include "ops/selection.h"
#include "ops/sketch.h"

namespace hashdl::ops {
namespace {

// Samples that go through all stages together.
constexpr int64_t kBlock = 16;

enum class Selection { exact, sketch, frequency, threshold, by_discovery };

Selection selection_named(const std::string& name, const char* op) {
  if (name == "exact") return Selection::exact;
  if (name == "sketch") return Selection::sketch;
  if (name == "frequency") return Selection::frequency;
  if (name == "threshold") return Selection::threshold;
  check(name == "union", op, "selection",
        "got '" + name + "', wanted 'exact', 'sketch', 'frequency', 'threshold' or 'union'");
  return Selection::by_discovery;
}

/// The candidates of a sample stand in tables that came from outside: they may hold anything.
bool all_below(const int32_t* ids, int64_t count, int64_t N) {
  bool ok = true;
  for (int64_t i = 0; i < count; ++i) ok &= ids[i] < N;
  return ok;
}

template <typename T>
struct Stages {
  cpu::GatherForward<T> of_candidates, of_rows;
  cpu::SketchScores<int32_t> sketch;
  int32_t* query_codes;  ///< what sketch.queries reads
  Selection selection;
  int64_t threshold;
  std::atomic<bool> in_range{true};

  void run(LookupCall& lookup, const cpu::Select& select, int64_t begin, int64_t end) {
    const cpu::Lookup& found = lookup.args;
    lookup.run(begin, end);
    int32_t* ids = found.candidates + begin * found.C;
    if (!all_below(ids, (end - begin) * found.C, select.N)) {
      in_range.store(false, std::memory_order_relaxed);
      return;
    }
    score(found, begin, end);
    cpu::select(select, begin, end);
    cpu::gather_linear_kernels<T>().forward(of_rows, begin, end);
  }

  void score(const cpu::Lookup& found, int64_t begin, int64_t end) {
    const int64_t first = begin * found.C, last = end * found.C;
    float* scores = sketch.scores;
    switch (selection) {
      case Selection::exact:
        cpu::gather_linear_kernels<T>().forward(of_candidates, begin, end);
        if constexpr (!std::is_same_v<T, float>) {
          cpu::gather_linear_kernels<T>().widen(of_candidates.z + first, scores + first,
                                                last - first);
        }
        break;
      case Selection::sketch:
        cpu::pack_signs(found.projections, begin, end, found.L, found.K, query_codes);
        cpu::sketch_kernels<int32_t>().scores(sketch, begin, end);
        break;
      case Selection::threshold:
        for (int64_t i = first; i < last; ++i) {
          if (found.hits[i] < threshold) found.candidates[i] = -1;
        }
        [[fallthrough]];
      case Selection::frequency:
        for (int64_t i = first; i < last; ++i) scores[i] = static_cast<float>(found.hits[i]);
        break;
      case Selection::by_discovery:
        break;
    }
  }
};

std::tuple<Tensor, Tensor> find_active(
    const Tensor& projections, const Tensor& offsets, const Tensor& table_rows, const Tensor& codes,
    const Tensor& norms, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& labels, const std::optional<Tensor>& shared, int64_t bits,
    int64_t probes, int64_t cap, int64_t candidates, std::string selection, int64_t threshold,
    int64_t active, int64_t random, int64_t seed, const Tensor& step) {
  constexpr auto op = "find_active";
  const Selection mode = selection_named(selection, op);
  LookupCall lookup(op, projections, offsets, table_rows, bits, probes, cap, candidates, seed,
                    step);
  const int64_t B = projections.size(0), L = table_rows.size(0);
  check_weight_and_input(x, weight, op);
  check_bias(bias, weight, op);
  const int64_t N = weight.size(0), d = weight.size(1);
  check_shape(x, {B, d}, op, "x");
  const Tensor inputs = as_contiguous(x), w = as_contiguous(weight);
  const auto b = as_contiguous(bias);
  const bool scored = mode != Selection::by_discovery;
  const bool exact = mode == Selection::exact;
  const Tensor query_codes = empty(lookup.found, {B, L}, ScalarType::Int);
  const SketchCall sketch(op, query_codes, codes, norms, lookup.found, bits);
  check(codes.size(0) == N, op, "codes",
        "got " + std::to_string(codes.size(0)) + " rows, wanted " + std::to_string(N));
  const Tensor& scores = sketch.scores;
  const SelectCall select(op, lookup.found, scored ? std::optional(scores) : std::nullopt, labels,
                          shared, active, random, N, seed, step);
  const Tensor z = empty(inputs, {B, select.rows.size(1)}, w.scalar_type());
  bool in_range = true;
  dispatch_floating(w, [&]<typename T>(T) {
    // float32 outputs of candidates are their scores as they stand.
    const bool own = exact && !std::is_same_v<T, float>;
    const Tensor outputs = empty(inputs, {B, own ? candidates : 0}, w.scalar_type());
    T* of_candidates = mutable_data<T>(outputs);
    if constexpr (std::is_same_v<T, float>) of_candidates = mutable_data<float>(scores);
    const auto gather = [&](const int32_t* rows, T* out, int64_t A) {
      return cpu::GatherForward<T>{
          data<T>(inputs), data<T>(w), data_or_null<T>(b), rows, out, d, A};
    };
    Stages<T> stages{gather(lookup.args.candidates, of_candidates, candidates),
                     gather(select.args.rows, mutable_data<T>(z), select.rows.size(1)),
                     sketch.args,
                     mutable_data<int32_t>(query_codes),
                     mode,
                     threshold};
    torch::stable::parallel_for(0, B, kBlock, [&](int64_t begin, int64_t end) {
      for (int64_t first = begin; first < end; first += kBlock) {
        stages.run(lookup, select.args, first, std::min(first + kBlock, end));
      }
    });
    in_range = stages.in_range;
  });
  lookup.check_run();
  check(in_range, op, "table_rows", "got a row id outside 0 to " + std::to_string(N - 1));
  return {select.rows, z};
}

}  // namespace
}  // namespace hashdl::ops

STABLE_TORCH_LIBRARY_IMPL(hashdl, CPU, m) {
  m.impl("find_active", TORCH_BOX(&hashdl::ops::find_active));
}
