// The order of scores as one of integers.
#pragma once

#include <bit>
#include <cstdint>

#include "cpu/host_device.h"

namespace hashdl::cpu {

/// An integer that is smaller for a higher score, and equal for equal ones; NaN ranks with minus
/// infinity. None is above that of minus infinity, 0xff800000.
HASHDL_HOST_DEVICE inline uint32_t descending_bits(float score) {
  constexpr uint32_t lowest = 0xff800000u;
  // The bits of a float, read as an integer, descend with it: all but the sign of a positive one
  // are inverted, none of a negative one. No branch, for signs are random.
  const uint32_t bits = std::bit_cast<uint32_t>(score + 0.0f);  // -0 and 0 are a tie
  const uint32_t negative = static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31);
  return score != score ? lowest : bits ^ (~negative & 0x7fffffffu);
}

}  // namespace hashdl::cpu
