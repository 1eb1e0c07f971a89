// find_active: look-up, scores and selection of a sample in one go, while its candidates are in
// cache, and the outputs of the rows selected. find_best: the largest of these outputs, in order.
#include <algorithm>

#include "cpu/best_outputs.h"
#include "cuda/best_outputs.h"
#include "cuda/gather_linear.h"
#include "cuda/lookup.h"
#include "cuda/selection.h"
#include "ops/find_best.h"
#include "ops/gather_linear.h"
#include "ops/lookup.h"
#include "ops/selection.h"
#include "ops/sketch.h"

namespace hashdl::ops {
namespace {

// Samples that go through all stages together: their candidates and scores stay in cache.
constexpr int64_t kBlock = 64;

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

/// Whether all ids are rows, or -1. The candidates of a sample stand in tables that came from
/// outside: they may hold anything.
bool all_rows(const int32_t* ids, int64_t count, int64_t N) {
  const auto last = static_cast<int32_t>(N - 1);
  int32_t outside = 0;
  for (int64_t i = 0; i < count; ++i) outside |= (ids[i] > last) | (ids[i] < -1);
  return outside == 0;
}

/// What all threads share.
template <typename T>
struct Stages {
  const cpu::Lookup& lookup;
  const cpu::Select& select;
  cpu::GatherForward<T> of_candidates, of_rows;
  float* scores;             ///< (B, C), what candidates are ranked by
  const SketchCall* sketch;  ///< for Selection::sketch
  Selection selection;
  int64_t threshold;
};

/// One thread's way through the stages.
template <typename T>
class Worker {
 public:
  explicit Worker(const Stages<T>& stages)
      : stages_(stages), finder_(stages.lookup), selector_(stages.select) {}

  /// False when a table held an id that is no row: the samples have no outputs then.
  bool run(int64_t begin, int64_t end) {
    const cpu::Lookup& found = stages_.lookup;
    checks_ = finder_.run(begin, end);
    const cpu::Select& select = stages_.select;
    const int32_t* ids = found.candidates + begin * found.C;
    if (!found.places && !all_rows(ids, (end - begin) * found.C, select.N)) return false;
    score(begin, end);
    selector_.run(begin, end);
    if (found.places && !to_rows(begin, end)) return false;
    if (stages_.selection == Selection::exact) {
      reuse_scores(begin, end);
    } else {
      cpu::gather_linear_kernels<T>().forward(stages_.of_rows, begin, end);
    }
    return true;
  }

  const cpu::LookupChecks& checks() const { return checks_; }

 private:
  /// From places in the table to the rows that stand there; false when one is none.
  bool to_rows(int64_t begin, int64_t end) {
    const cpu::Select& select = stages_.select;
    int32_t* rows = select.rows + begin * select.A;
    const int64_t count = (end - begin) * select.A;
    for (int64_t i = 0; i < count; ++i) rows[i] = rows[i] < 0 ? -1 : stages_.lookup.rows[rows[i]];
    return all_rows(rows, count, select.N);
  }

  void score(int64_t begin, int64_t end) {
    const cpu::Lookup& found = stages_.lookup;
    const int64_t first = begin * found.C, last = end * found.C;
    float* scores = stages_.scores;
    switch (stages_.selection) {
      case Selection::exact:
        cpu::gather_linear_kernels<T>().forward(stages_.of_candidates, begin, end);
        if constexpr (!std::is_same_v<T, float>) {
          cpu::gather_linear_kernels<T>().widen(stages_.of_candidates.z + first, scores + first,
                                                last - first);
        }
        break;
      case Selection::sketch:
        stages_.sketch->run(begin, end);
        break;
      case Selection::threshold:
        for (int64_t i = first; i < last; ++i) {
          if (found.hits[i] < stages_.threshold) found.candidates[i] = -1;
        }
        [[fallthrough]];
      case Selection::frequency:
        for (int64_t i = first; i < last; ++i) scores[i] = static_cast<float>(found.hits[i]);
        break;
      case Selection::by_discovery:
        break;
    }
  }

  /// The outputs of the best candidates are known; those of labels and draws are not.
  void reuse_scores(int64_t begin, int64_t end) {
    const cpu::Select& select = stages_.select;
    const int64_t best = select.A - select.R, width = select.M + select.A;
    for (int64_t b = begin; b < end; ++b) {
      const T* scored = stages_.of_candidates.z + b * select.C;
      const int32_t* columns = select.columns + b * best;
      T* z = stages_.of_rows.z + b * width + select.M;
      for (int64_t a = 0; a < best; ++a) z[a] = columns[a] < 0 ? T{} : scored[columns[a]];
    }
    forward_columns(0, select.M, begin, end);
    forward_columns(select.M + best, select.R, begin, end);
  }

  void forward_columns(int64_t first, int64_t count, int64_t begin, int64_t end) {
    cpu::GatherForward<T> some = stages_.of_rows;
    some.rows += first;
    some.z += first;
    some.A = count;
    cpu::gather_linear_kernels<T>().forward(some, begin, end);
  }

  const Stages<T>& stages_;
  cpu::Finder finder_;
  cpu::Selector selector_;
  cpu::LookupChecks checks_{true, true};
};

/// The outputs of some columns of the rows of all samples.
template <typename T>
void forward_on_gpu(const cpu::GatherForward<T>& of_rows, int64_t first, int64_t count, int64_t B,
                    int64_t N, cuda::Stream stream) {
  cpu::GatherForward<T> some = of_rows;
  some.rows += first;
  some.z += first;
  some.A = count;
  cuda::gather_forward(some, B, N, stream);
}

/// All stages for all samples, one after the other.
template <typename T>
void find_on_gpu(const Tensor& on, const Stages<T>& stages, int64_t B, const cuda::Step& step) {
  const cpu::Lookup& found = stages.lookup;
  const cpu::Select& select = stages.select;
  const int64_t N = select.N, best = select.A - select.R, width = select.M + select.A;
  const auto score = [&](cuda::Stream stream) {
    switch (stages.selection) {
      case Selection::exact:
        cuda::gather_forward(stages.of_candidates, B, N, stream);
        if constexpr (!std::is_same_v<T, float>) {
          cuda::widen_scores(stages.of_candidates.z, stages.scores, B * found.C, stream);
        }
        break;
      case Selection::sketch:
        stages.sketch->run_on_gpu(stream);
        break;
      case Selection::threshold:
      case Selection::frequency: {
        const int64_t least = stages.selection == Selection::threshold ? stages.threshold : 0;
        cuda::rank_by_hits({found.hits, found.candidates, stages.scores, B * found.C, least},
                           stream);
        break;
      }
      case Selection::by_discovery:
        break;
    }
  };
  run_with_scratch(on, [&](cuda::Scratch& scratch, cuda::Stream stream) {
    cuda::lookup(found, B, step, scratch, stream);
    if (!scratch.measuring()) score(stream);
    cuda::select(select, B, step, scratch, stream);
    if (scratch.measuring()) return;
    if (stages.selection != Selection::exact) {
      return cuda::gather_forward(stages.of_rows, B, N, stream);
    }
    // The outputs of the best candidates are known; those of labels and draws are not.
    cuda::reuse_scores<T>({stages.of_candidates.z, select.columns, stages.of_rows.z + select.M, B,
                           select.C, best, width},
                          stream);
    forward_on_gpu(stages.of_rows, 0, select.M, B, N, stream);
    forward_on_gpu(stages.of_rows, select.M + best, select.R, B, N, stream);
  });
}

/// Rows (B, M + A) and their outputs. `ordered`: sketches stand as the rows of the one table do.
/// `op` is named in errors.
std::tuple<Tensor, Tensor> find(
    const char* op, const Tensor& buckets, const Tensor& offsets, const Tensor& table_rows,
    const std::optional<Tensor>& sketch_queries, const std::optional<Tensor>& sketches,
    const std::optional<Tensor>& norms, const Tensor& x, const Tensor& weight,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& labels,
    const std::optional<Tensor>& shared, int64_t cap, int64_t candidates, Selection mode,
    int64_t threshold, int64_t active, int64_t random, int64_t seed, const Tensor& step,
    bool ordered) {
  const bool counted = mode == Selection::frequency || mode == Selection::threshold;
  LookupCall lookup(op, buckets, offsets, table_rows, cap, candidates, counted || is_cuda(buckets),
                    seed, step);
  lookup.args.places = ordered;
  const int64_t B = buckets.size(0), C = lookup.args.C;
  check_weight_and_input(x, weight, op);
  check_bias(bias, weight, op);
  const int64_t N = weight.size(0), d = weight.size(1);
  check_shape(x, {B, d}, op, "x");
  check_one_device(op, {buckets, x, weight, bias, labels});
  const Tensor inputs = as_contiguous(x), w = as_contiguous(weight);
  const auto b = as_contiguous(bias);
  std::optional<SketchCall> sketch;
  if (mode == Selection::sketch) {
    check(sketch_queries && sketches, op, "sketches",
          "got None, wanted sketch_queries and sketches for selection 'sketch'");
    check(sketches->size(0) == N, op, "sketches", [&] {
      return "got " + std::to_string(sketches->size(0)) + " rows, wanted " + std::to_string(N);
    });
    sketch.emplace(op, *sketch_queries, *sketches, norms, lookup.found);
  }
  const bool scored = mode != Selection::by_discovery;
  const bool exact = mode == Selection::exact;
  const Tensor scores =
      sketch ? sketch->scores : empty(lookup.found, {B, scored ? C : 0}, ScalarType::Float);
  SelectCall select(op, lookup.found, scored ? std::optional(scores) : std::nullopt, labels, shared,
                    active, random, N, seed, step);
  const Tensor z = empty(inputs, {B, select.rows.size(1)}, w.scalar_type());
  std::optional<Tensor> columns;
  if (exact) {
    columns = empty(select.rows, {B, active - random}, ScalarType::Int);
    select.args.columns = mutable_data<int32_t>(*columns);
  }
  bool in_range = true;
  dispatch_floating(w, [&]<typename T>(T) {
    // float32 outputs of candidates are their scores as they stand.
    const bool own = exact && !std::is_same_v<T, float>;
    const Tensor outputs = empty(inputs, {B, own ? C : 0}, w.scalar_type());
    T* of_candidates = mutable_data<T>(outputs);
    if constexpr (std::is_same_v<T, float>) of_candidates = mutable_data<float>(scores);
    const auto gather = [&](const int32_t* rows, T* out, int64_t A) {
      return cpu::GatherForward<T>{
          data<T>(inputs), data<T>(w), data_or_null<T>(b), rows, out, d, A, A};
    };
    const Stages<T> stages{lookup.args,
                           select.args,
                           gather(lookup.args.candidates, of_candidates, C),
                           gather(select.args.rows, mutable_data<T>(z), select.rows.size(1)),
                           mutable_data<float>(scores),
                           sketch ? &*sketch : nullptr,
                           mode,
                           threshold};
    if constexpr (kCuda) {
      if (is_cuda(w)) {
        return find_on_gpu(w, stages, B, step_for_gpu(step));
      }
    }
    in_range = parallel_all(B, kBlock, [&](int64_t begin, int64_t end) {
      Worker<T> worker(stages);
      bool ok = true;
      for (int64_t first = begin; first < end && ok; first += kBlock) {
        ok = worker.run(first, std::min(first + kBlock, end));
      }
      lookup.note(worker.checks());
      return ok;
    });
  });
  lookup.check_noted();
  check(in_range, op, "table_rows",
        [&] { return "got a row id outside 0 to " + std::to_string(N - 1); });
  return {select.rows, z};
}

std::tuple<Tensor, Tensor> find_active(
    const Tensor& buckets, const Tensor& offsets, const Tensor& table_rows,
    const std::optional<Tensor>& sketch_queries, const std::optional<Tensor>& sketches,
    const std::optional<Tensor>& norms, const Tensor& x, const Tensor& weight,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& labels,
    const std::optional<Tensor>& shared, int64_t cap, int64_t candidates, std::string selection,
    int64_t threshold, int64_t active, int64_t random, int64_t seed, const Tensor& step) {
  constexpr auto op = "find_active";
  return find(op, buckets, offsets, table_rows, sketch_queries, sketches, norms, x, weight, bias,
              labels, shared, cap, candidates, selection_named(selection, op), threshold, active,
              random, seed, step, false);
}

}  // namespace

std::tuple<Tensor, Tensor> find_best(const char* op, const Tensor& buckets, const Tensor& offsets,
                                     const Tensor& table_rows,
                                     const std::optional<Tensor>& sketch_queries,
                                     const std::optional<Tensor>& sketches,
                                     const std::optional<Tensor>& norms, const Tensor& x,
                                     const Tensor& weight, const std::optional<Tensor>& bias,
                                     int64_t cap, int64_t candidates, int64_t active, int64_t k,
                                     int64_t seed, const Tensor& step, bool ordered) {
  const auto negative = [](int64_t got) {
    return "got " + std::to_string(got) + ", wanted 0 or more";
  };
  check(active >= 0, op, "active", [&] { return negative(active); });
  check(k >= 0, op, "k", [&] { return negative(k); });
  const bool sketch = sketch_queries || sketches || norms;
  const int64_t A = sketch ? std::max(active, k) : k;
  const auto [rows, z] =
      find(op, buckets, offsets, table_rows, sketch_queries, sketches, norms, x, weight, bias,
           std::nullopt, std::nullopt, cap, candidates,
           sketch ? Selection::sketch : Selection::exact, 0, A, 0, seed, step, ordered);
  const int64_t B = x.size(0);
  const Tensor values = empty(z, {B, k}, z.scalar_type());
  const Tensor best = empty(rows, {B, k}, ScalarType::Long);
  dispatch_floating(z, [&]<typename T>(T) {
    const cpu::BestOutputs<T> args{
        data<T>(z), data<int32_t>(rows), mutable_data<T>(values), mutable_data<int64_t>(best), A,
        k};
    if constexpr (kCuda) {
      if (is_cuda(z)) {
        return run_with_scratch(z, [&](cuda::Scratch& scratch, cuda::Stream stream) {
          cuda::best_outputs(args, B, scratch, stream);
        });
      }
    }
    torch::stable::parallel_for(
        0, B, kBlock, [&](int64_t begin, int64_t end) { cpu::best_outputs(args, begin, end); });
  });
  return {values, best};
}

namespace {

std::tuple<Tensor, Tensor> find_best_op(const Tensor& buckets, const Tensor& offsets,
                                        const Tensor& table_rows,
                                        const std::optional<Tensor>& sketch_queries,
                                        const std::optional<Tensor>& sketches,
                                        const std::optional<Tensor>& norms, const Tensor& x,
                                        const Tensor& weight, const std::optional<Tensor>& bias,
                                        int64_t cap, int64_t candidates, int64_t active, int64_t k,
                                        int64_t seed, const Tensor& step) {
  return find_best("find_best", buckets, offsets, table_rows, sketch_queries, sketches, norms, x,
                   weight, bias, cap, candidates, active, k, seed, step, false);
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) {
  m.impl("find_active", TORCH_BOX(&hashdl::ops::find_active));
  m.impl("find_best", TORCH_BOX(&hashdl::ops::find_best_op));
}
