// Matrix tiles (AMX): eight registers of up to 16 rows of 64 bytes. The including file has an AVX-512 target.
#pragma once
#include <initializer_list>

#include "attend.h"

namespace {

using tuili::TILE_ROWS;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int64_t num_rows, int64_t num_bytes) {
    rows[tile] = static_cast<uint8_t>(num_rows), bytes[tile] = static_cast<uint16_t>(num_bytes);
  }
};

// Written out, since the compilers' own do not say that they read memory.
INLINE void configure(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config) : "memory"); }
INLINE void release() { asm volatile("tilerelease" ::: "memory"); }
template <int TILE>
INLINE void load_tile(const float* from, int64_t step) {  // rows lie `step` cells apart
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(step * 4), "i"(TILE) : "memory");
}
template <int TILE>
INLINE void store_tile(float* to, int64_t step) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(step * 4), "i"(TILE) : "memory");
}
template <int TILE>
INLINE void zero_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(TILE));
}
template <int SUM, int LEFT, int RIGHT>
INLINE void add_product() {  // of pairs of bfloat16
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(LEFT), "i"(RIGHT));
}
template <int SUM, int LEFT, int RIGHT>
INLINE void add_int8_product() {  // of fours of int8, on the right without a sign
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(LEFT), "i"(RIGHT));
}

// Call `work` with the numbers 0 to N - 1 as types.
template <int N, class Work>
INLINE void times(Work work) {
  if constexpr (N > 0) {
    times<N - 1>(work);
    work(Count<N - 1>{});
  }
}

}  // namespace
