#include "cuda/softmax.h"

#include "cuda/device.h"
#include "cuda/numbers.h"
#include "cuda/row_set.h"

namespace hashdl::cuda {
namespace {

constexpr int kThreads = 256;

/// Minus infinity: the logit of what is not there.
template <typename A>
__device__ A absent() {
  return -static_cast<A>(__builtin_inf());
}

__device__ float exponential(float x) { return expf(x); }
__device__ double exponential(double x) { return exp(x); }
__device__ float logarithm(float x) { return logf(x); }
__device__ double logarithm(double x) { return log(x); }

/// The logit of a place: column in [z | s], or Q + S for a row that is not active.
template <typename T>
__device__ Accumulate<T> logit_at(const cpu::ActiveLogits<T>& logits, int64_t b, int64_t place) {
  const int64_t Q = logits.Q, S = logits.S;
  if (place < Q) {
    const int64_t at = b * Q + place;
    return logits.rows[at] >= 0 ? widen(logits.z[at]) : absent<Accumulate<T>>();
  }
  if (place == Q + S || logits.shared[place - Q] < 0) return absent<Accumulate<T>>();
  return widen(logits.s[b * S + place - Q]);
}

__global__ void find_labels_kernel(cpu::LabelPlaces args, SharedRowMap shared, int64_t count) {
  const int64_t i = thread_index();
  if (i >= count) return;
  const int64_t b = i / args.M, m = i % args.M;
  const int32_t label = args.labels[i];
  int64_t place = -1;
  if (label >= 0 && label == args.rows[b * args.Q + m]) {
    place = m;
  } else if (label >= 0) {
    const int64_t at = shared.find(label);
    place = args.Q + (at >= 0 ? at : args.S);
  }
  args.places[i] = static_cast<int32_t>(place);
}

__global__ void find_shared_kernel(cpu::SharedPlaces args, SharedRowMap shared) {
  const int64_t i = thread_index();
  if (i >= args.count) return;
  args.places[i] = args.rows[i] < 0 ? -1 : static_cast<int32_t>(shared.find(args.rows[i]));
}

template <typename T>
__device__ Accumulate<T> logsumexp(const cpu::ActiveLogits<T>& logits, int64_t b) {
  using A = Accumulate<T>;
  const int64_t count = logits.Q + logits.S;
  A best = absent<A>();
  for (int64_t k = threadIdx.x; k < count; k += kThreads) {
    const A logit = logit_at(logits, b, k);
    best = logit > best ? logit : best;  // NaN is left to the sum
  }
  best = block_max<kThreads>(best, absent<A>());
  const A shift = best - best == A(0) ? best : A(0);  // not inf - inf
  A sum = A(0);
  for (int64_t k = threadIdx.x; k < count; k += kThreads) {
    sum += exponential(logit_at(logits, b, k) - shift);
  }
  return shift + logarithm(block_sum<kThreads>(sum));
}

template <typename T>
__global__ void __launch_bounds__(kThreads) log_prob_kernel(cpu::LogProbForward<T> args) {
  using A = Accumulate<T>;
  const int64_t b = blockIdx.x;
  const int32_t* const places = args.places + b * args.M;
  const A total = logsumexp(args.logits, b);
  A sum = A(0);
  int32_t labels = 0;
  for (int64_t m = threadIdx.x; m < args.M; m += kThreads) {
    if (places[m] < 0) continue;
    sum += logit_at(args.logits, b, places[m]) - total;
    ++labels;
  }
  sum = block_sum<kThreads>(sum);
  labels = block_sum<kThreads>(labels);
  if (threadIdx.x != 0) return;
  args.logsumexp[b] = total;
  narrow(labels > 0 ? sum / static_cast<A>(labels) : A(0), args.log_prob[b]);
}

/// Softmax from a logit and the logsumexp of all: 0 for what is absent, even where the sum is NaN
/// or nothing is there.
template <typename A>
__device__ A probability(A logit, A logsumexp) {
  return logit == absent<A>() ? A(0) : exponential(logit - logsumexp);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) backward_kernel(cpu::LogProbBackward<T> args) {
  using A = Accumulate<T>;
  const int64_t b = blockIdx.x, Q = args.logits.Q, S = args.logits.S;
  const int32_t* const places = args.places + b * args.M;
  int32_t labels = 0;
  for (int64_t m = threadIdx.x; m < args.M; m += kThreads) {
    require(places[m] >= -1 && places[m] <= Q + S,
            "hashdl::active_log_prob_backward: places: got a column that there is not");
    labels += places[m] >= 0;
  }
  labels = block_sum<kThreads>(labels);
  const A grad = widen(args.grad_log_prob[b]), total = args.logsumexp[b];
  const auto write = [&](int64_t k, A share) {
    const A value = grad * (share - probability(logit_at(args.logits, b, k), total));
    narrow(labels == 0 ? A(0) : value, k < Q ? args.grad_z[b * Q + k] : args.grad_s[b * S + k - Q]);
  };
  for (int64_t k = threadIdx.x; k < Q + S; k += kThreads) write(k, A(0));
  __syncthreads();
  // The labels' columns anew: to add to what was rounded to 16 bits would round twice.
  for (int64_t m = threadIdx.x; m < args.M; m += kThreads) {
    if (places[m] >= 0 && places[m] < Q + S) write(places[m], A(1) / static_cast<A>(labels));
  }
}

}  // namespace

void find_labels(const cpu::LabelPlaces& args, int64_t B, Scratch& scratch, Stream stream) {
  const SharedRowMap shared = SharedRowMap::make(args.S, scratch);
  if (scratch.measuring()) return;
  shared.fill(args.shared, stream);
  launch(find_labels_kernel, blocks_for(B * args.M, kThreads), kThreads, 0, stream, args, shared,
         B * args.M);
}

void find_shared(const cpu::SharedPlaces& args, Scratch& scratch, Stream stream) {
  const SharedRowMap shared = SharedRowMap::make(args.S, scratch);
  if (scratch.measuring()) return;
  shared.fill(args.shared, stream);
  launch(find_shared_kernel, blocks_for(args.count, kThreads), kThreads, 0, stream, args, shared);
}

template <typename T>
void log_prob(const cpu::LogProbForward<T>& args, int64_t B, Stream stream) {
  launch(log_prob_kernel<T>, B, kThreads, 0, stream, args);
}

template <typename T>
void log_prob_backward(const cpu::LogProbBackward<T>& args, int64_t B, Stream stream) {
  launch(backward_kernel<T>, B, kThreads, 0, stream, args);
}

#define HASHDL_INSTANTIATE(T)                                                \
  template void log_prob<T>(const cpu::LogProbForward<T>&, int64_t, Stream); \
  template void log_prob_backward<T>(const cpu::LogProbBackward<T>&, int64_t, Stream);
HASHDL_INSTANTIATE(float)
HASHDL_INSTANTIATE(double)
HASHDL_INSTANTIATE(BFloat16)
HASHDL_INSTANTIATE(Half)
#undef HASHDL_INSTANTIATE

}  // namespace hashdl::cuda
