// Counter-based random numbers: a pure function of (seed, step, stream, draw), so that results do
// not depend on the number of threads, nor on the device. The same function stands in
// hashdl/reference.py.
#pragma once

#include <cstdint>

#include "cpu/host_device.h"

// Always inlined: a function that instruction sets shared could be linked with instructions that
// the machine lacks.
#define HASHDL_RANDOM HASHDL_HOST_DEVICE __attribute__((always_inline)) inline

namespace hashdl::cpu {

/// The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
HASHDL_RANDOM uint64_t mix(uint64_t z) {
  z += 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

/// What all streams of a step have in common.
HASHDL_RANDOM uint64_t step_key(int64_t seed, int64_t step) {
  return mix(mix(static_cast<uint64_t>(seed)) ^ static_cast<uint64_t>(step));
}

/// The key of one stream (a sample, a bucket, ...) at one step.
HASHDL_RANDOM uint64_t stream_key(uint64_t of_step, int64_t stream) {
  return mix(of_step ^ static_cast<uint64_t>(stream));
}

HASHDL_RANDOM uint64_t stream_key(int64_t seed, int64_t step, int64_t stream) {
  return stream_key(step_key(seed, step), stream);
}

// Streams: look-ups in bucket c draw from stream c, sample b selects from kRandomRowsStream + b.
constexpr int64_t kSharedStream = -1;
constexpr int64_t kRandomRowsStream = int64_t{1} << 40;
constexpr int64_t kReservoirStream = int64_t{2} << 40;  // of bucket 0; the step is the table

/// Draw number `draw` of the stream: uniform in [0, bound), for bound < 2^31.
HASHDL_RANDOM int64_t draw_below(uint64_t key, int64_t draw, int64_t bound) {
  const uint64_t bits = mix(key ^ static_cast<uint64_t>(draw)) >> 33;  // 31 bits
  return static_cast<int64_t>((bits * static_cast<uint64_t>(bound)) >> 31);
}

/// 64 bits for columns 2 pair and 2 pair + 1 of the stream.
HASHDL_RANDOM uint64_t column_draw(uint64_t key, int64_t pair) {
  return mix(key ^ static_cast<uint64_t>(pair));
}

/// 32 bits for column k: the lower half of the draw for an even one.
HASHDL_RANDOM uint32_t column_bits(uint64_t key, int64_t k) {
  return static_cast<uint32_t>(column_draw(key, k >> 1) >> (k & 1 ? 32 : 0));
}

/// The bits of a float as those of a bfloat16, one of its two neighbours: the upper one for as many
/// of the 2^16 values of `bits` (16 of them count) as the float is 2^-16 of the way there. NaN
/// stays NaN, and what is exact as it is.
HASHDL_RANDOM uint16_t round_at_random(uint32_t number, uint32_t bits) {
  const bool nan = (number & 0x7fffffffu) > 0x7f800000u;
  return static_cast<uint16_t>(nan ? 0x7fc0u : (number + (bits & 0xffffu)) >> 16);
}

}  // namespace hashdl::cpu
