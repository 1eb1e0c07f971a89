#include "cpu/softmax.h"

#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

/// Minus infinity: the logit of what is not there.
template <typename A>
constexpr A kAbsent = -static_cast<A>(__builtin_inf());

typedef int32_t HalfVecI32 __attribute__((vector_size(kVectorBytes / 2)));
typedef int64_t VecI64 __attribute__((vector_size(kVectorBytes)));

/// A lane of A where each of so many row ids stands.
HASHDL_INLINE VecI32 load_ids(const int32_t* rows, float) {
  VecI32 ids;
  std::memcpy(&ids, rows, sizeof(ids));
  return ids;
}
HASHDL_INLINE VecI64 load_ids(const int32_t* rows, double) {
  HalfVecI32 ids;
  std::memcpy(&ids, rows, sizeof(ids));
  return __builtin_convertvector(ids, VecI64);
}

/// A vector of logits, absent at padding.
template <typename T, typename A = Accumulate<T>>
HASHDL_INLINE Vec<A> counted(const T* logits, const int32_t* rows) {
  return load_ids(rows, A(0)) >= 0 ? load(logits) : Vec<A>{} + kAbsent<A>;
}

/// body(k, size, v) for all `count` logits, a vector v at a time: of the columns from k on, `size`
/// of them, absent beyond.
template <typename T, typename Body>
HASHDL_INLINE void for_logits(const T* logits, const int32_t* rows, int64_t count,
                              const Body& body) {
  constexpr int64_t lanes = VecOf<Accumulate<T>>::lanes;
  int64_t k = 0;
  for (; k + lanes <= count; k += lanes) body(k, lanes, counted(logits + k, rows + k));
  if (k == count) return;
  T rest[lanes] = {};
  int32_t ids[lanes];
  for (int64_t i = 0; i < lanes; ++i) {
    ids[i] = k + i < count ? rows[k + i] : -1;
    if (k + i < count) rest[i] = logits[k + i];
  }
  body(k, count - k, counted(rest, ids));
}

template <typename T, typename Body>
HASHDL_INLINE void for_sample(const ActiveLogits<T>& logits, int64_t b, const Body& body) {
  for_logits(logits.z + b * logits.Q, logits.rows + b * logits.Q, logits.Q, body);
  for_logits(logits.s + b * logits.S, logits.shared, logits.S, body);
}

/// The logit of a place: column in [z | s], or Q + S for a row that is not active.
template <typename T>
HASHDL_INLINE Accumulate<T> logit_at(const ActiveLogits<T>& logits, int64_t b, int64_t place) {
  const int64_t Q = logits.Q, S = logits.S;
  if (place < Q) {
    const int64_t at = b * Q + place;
    return logits.rows[at] >= 0 ? load1(logits.z + at) : kAbsent<Accumulate<T>>;
  }
  if (place == Q + S || logits.shared[place - Q] < 0) return kAbsent<Accumulate<T>>;
  return load1(logits.s + b * S + place - Q);
}

HASHDL_INLINE float log1(float x) { return __builtin_logf(x); }
HASHDL_INLINE double log1(double x) { return __builtin_log(x); }

template <typename A>
HASHDL_INLINE A largest(Vec<A> v) {
  A best = v[0];
  for (int64_t i = 1; i < VecOf<A>::lanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

template <typename T, typename A = Accumulate<T>>
HASHDL_INLINE A logsumexp(const ActiveLogits<T>& logits, int64_t b) {
  Vec<A> best = Vec<A>{} + kAbsent<A>;
  for_sample(logits, b, [&](int64_t, int64_t, Vec<A> v) __attribute__((always_inline)) {
    best = v > best ? v : best;  // NaN is left to the sum
  });
  const A highest = largest<A>(best);
  const bool finite = highest - highest == A(0);
  const A shift = finite ? highest : A(0);  // not inf - inf
  Vec<A> sum = {};
  for_sample(logits, b, [&](int64_t, int64_t, Vec<A> v) __attribute__((always_inline)) {
    sum += exp(v - shift);
  });
  return shift + log1(reduce<A>(sum));
}

template <typename T>
void forward(const LogProbForward<T>& args, int64_t begin, int64_t end) {
  using A = Accumulate<T>;
  for (int64_t b = begin; b < end; ++b) {
    const A total = logsumexp(args.logits, b);
    const int32_t* places = args.places + b * args.M;
    A sum = A(0);
    int64_t labels = 0;
    for (int64_t m = 0; m < args.M; ++m) {
      if (places[m] < 0) continue;
      sum += logit_at(args.logits, b, places[m]) - total;
      ++labels;
    }
    args.logsumexp[b] = total;
    store1(args.log_prob + b, labels > 0 ? sum / static_cast<A>(labels) : A(0));
  }
}

/// Softmax from a vector of logits and the logsumexp of all of them: 0 for what is absent, even
/// where the sum is NaN or nothing is there.
template <typename A>
HASHDL_INLINE Vec<A> probability(Vec<A> logits, A logsumexp) {
  return logits == kAbsent<A> ? Vec<A>{} : exp(logits - logsumexp);
}

template <typename T, typename A>
HASHDL_INLINE void store_first(T* out, Vec<A> v, int64_t size) {
  if (size == VecOf<A>::lanes) return store(out, v);
  for (int64_t i = 0; i < size; ++i) store1(out + i, v[i]);
}

/// What all columns have in common: minus the gradient times the probability.
template <typename T, typename A>
HASHDL_INLINE void subtract_softmax(const T* logits, const int32_t* rows, int64_t count, A total,
                                    A grad, T* out) {
  for_logits(logits, rows, count,
             [&](int64_t k, int64_t size, Vec<A> v) __attribute__((always_inline)) {
               store_first<T, A>(out + k, -grad * probability<A>(v, total), size);
             });
}

/// The labels' columns anew: to add to what was rounded to 16 bits would round twice.
template <typename T, typename A>
HASHDL_INLINE void add_labels(const LogProbBackward<T>& args, int64_t b, A grad, A share) {
  const int64_t Q = args.logits.Q, S = args.logits.S;
  for (int64_t m = 0; m < args.M; ++m) {
    const int64_t place = args.places[b * args.M + m];
    if (place < 0 || place == Q + S) continue;
    const Vec<A> logit = Vec<A>{} + logit_at(args.logits, b, place);
    const A value = grad * (share - probability<A>(logit, args.logsumexp[b])[0]);
    store1(place < Q ? args.grad_z + b * Q + place : args.grad_s + b * S + place - Q, value);
  }
}

template <typename T>
void backward(const LogProbBackward<T>& args, int64_t begin, int64_t end) {
  using A = Accumulate<T>;
  const int64_t Q = args.logits.Q, S = args.logits.S;
  for (int64_t b = begin; b < end; ++b) {
    int64_t labels = 0;
    for (int64_t m = 0; m < args.M; ++m) labels += args.places[b * args.M + m] >= 0;
    if (labels == 0) {
      for (int64_t k = 0; k < Q; ++k) store1(args.grad_z + b * Q + k, A(0));
      for (int64_t k = 0; k < S; ++k) store1(args.grad_s + b * S + k, A(0));
      continue;
    }
    const A grad = load1(args.grad_log_prob + b), total = args.logsumexp[b];
    const ActiveLogits<T>& logits = args.logits;
    subtract_softmax(logits.z + b * Q, logits.rows + b * Q, Q, total, grad, args.grad_z + b * Q);
    subtract_softmax(logits.s + b * S, logits.shared, S, total, grad, args.grad_s + b * S);
    add_labels(args, b, grad, A(1) / static_cast<A>(labels));
  }
}

}  // namespace

template <typename T>
const SoftmaxKernels<T>& softmax_kernels() {
  static constexpr SoftmaxKernels<T> kernels{forward<T>, backward<T>};
  return kernels;
}

template const SoftmaxKernels<float>& softmax_kernels<float>();
template const SoftmaxKernels<double>& softmax_kernels<double>();
template const SoftmaxKernels<BFloat16>& softmax_kernels<BFloat16>();
template const SoftmaxKernels<Half>& softmax_kernels<Half>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
