#include "cpu/levels.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace hashdl::cpu {
namespace {

constexpr int64_t kBlock = 32;

}  // namespace

LevelQuery::LevelQuery(const float* coordinates, int64_t count)
    : even((count / 2 + kBlock - 1) / kBlock * kBlock), odd(even.size()) {
  float most = 0, poison = 0;  // zero times NaN or infinity is NaN
  for (int64_t k = 0; k < count; ++k) {
    most = std::max(most, std::abs(coordinates[k]));
    poison += coordinates[k] * 0.0f;
  }
  scale = most / kQueryLevel;
  if (poison != 0.0f) scale = std::numeric_limits<float>::quiet_NaN();
  if (poison != 0.0f || most < kQueryFloor) return;
  const float by = kQueryLevel / most;
  constexpr float kRound = 0x1.8p23f;  // added and taken away, it leaves the nearest integer
  const auto rounded = [&](int64_t k) {
    const float shifted = coordinates[k] * by + kRound;
    return static_cast<int8_t>(shifted - kRound);
  };
  for (int64_t i = 0; i < count / 2; ++i) {
    even[i] = rounded(2 * i);
    odd[i] = rounded(2 * i + 1);
    sum += even[i] + odd[i];
  }
}

}  // namespace hashdl::cpu
