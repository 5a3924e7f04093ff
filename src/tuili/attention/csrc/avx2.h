// What is written out for AVX2: eight lanes at a time between memory and the layouts of panels.
#pragma once
#include "simd.h"

#if defined(TUILI_AVX2)
namespace {

// How eight cells lie in memory: floats, ...
struct Floats {
  using Number = float;
  static constexpr int64_t PER_CELL = 1;
  INLINE __m256i cells(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
};

// ... bfloat16, widened to floats, ...
struct Narrow {
  using Number = uint16_t;
  static constexpr int64_t PER_CELL = 1;
  INLINE __m256i cells(const void* from) {
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(from))), 16);
  }
};

// ... or int8, widened to two int16 each.
struct Bytes {
  using Number = int8_t;
  static constexpr int64_t PER_CELL = 2;
  INLINE __m256i cells(const void* from) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(from)));
  }
};

// The eight cells from `cell` on of a row of `width` numbers; what lies after it is 0. A null row is all 0.
template <class Kind>
INLINE __m256i eight_cells(const void* row, int64_t cell, int64_t width) {
  constexpr int64_t SIZE = sizeof(typename Kind::Number), COUNT = W * Kind::PER_CELL;
  const int64_t first = cell * Kind::PER_CELL, left = width - first;
  if (!row || left <= 0) return _mm256_setzero_si256();
  const char* from = static_cast<const char*>(row) + first * SIZE;
  if (left >= COUNT) return Kind::cells(from);
  char room[COUNT * SIZE] = {};
  __builtin_memcpy(room, from, left * SIZE);
  return Kind::cells(room);
}

// Row i of the result holds lane i of all rows.
INLINE void turn(__m256i (&x)[W]) {
  __m256i y[W];
  for (int g = 0; g < W; g += 4) {
    const __m256i low = _mm256_unpacklo_epi32(x[g], x[g + 1]), high = _mm256_unpackhi_epi32(x[g], x[g + 1]);
    const __m256i low2 = _mm256_unpacklo_epi32(x[g + 2], x[g + 3]), high2 = _mm256_unpackhi_epi32(x[g + 2], x[g + 3]);
    y[g] = _mm256_unpacklo_epi64(low, low2), y[g + 1] = _mm256_unpackhi_epi64(low, low2);
    y[g + 2] = _mm256_unpacklo_epi64(high, high2), y[g + 3] = _mm256_unpackhi_epi64(high, high2);
  }
  for (int c = 0; c < 4; ++c) {
    x[c] = _mm256_permute2x128_si256(y[c], y[4 + c], 0x20);
    x[4 + c] = _mm256_permute2x128_si256(y[c], y[4 + c], 0x31);
  }
}

// Put 16 rows side by side: cell i of all of them lies at `to` + 16 i. `cells` is a multiple of eight.
template <class Kind>
INLINE void transpose(const void* const* rows, int64_t width, int64_t cells, float* to) {
  for (int64_t first = 0; first < cells; first += W)
    for (int64_t lane = 0; lane < tuili::STRIP; lane += W) {
      __m256i x[W];
      for (int r = 0; r < W; ++r) x[r] = eight_cells<Kind>(rows[lane + r], first, width);
      turn(x);
      for (int c = 0; c < W; ++c) store(to + (first + c) * tuili::STRIP + lane, (vf)x[c]);
    }
}

INLINE vf eight_floats(const void* row, int64_t first, bool is_bf16, int64_t width) {
  return (vf)(is_bf16 ? eight_cells<Narrow>(row, first, width) : eight_cells<Floats>(row, first, width));
}

// Round a gate query of `width` numbers to int8, as pairs of int16 into cells `step` apart. Returns the factor, 0 for
// a query that is not finite or too small.
inline float round_query(const void* row, bool is_bf16, int64_t width, int64_t cells, int64_t step, float* to) {
  vf most = {};
  vi is_finite = vi{} - 1;
  for (int64_t i = 0; i < width; i += W) {
    const vf size = (vf)((vi)eight_floats(row, i, is_bf16, width) & 0x7fffffff);
    is_finite &= size <= splat(__FLT_MAX__);
    most = max(size, most);
  }
  const float top = largest(most);
  const float steps = _mm256_movemask_ps((__m256)is_finite) == 0xff && top > 0 ? 127.0f / top : 0.0f;
  const bool is_zero = !(steps > 0 && steps <= __FLT_MAX__);
  for (int64_t i = 0; i < cells; i += W / 2) {
    const vf x = is_zero ? vf{} : eight_floats(row, 2 * i, is_bf16, width) * steps;
    const __m256i rounded = _mm256_cvtps_epi32((__m256)x);
    const __m256i pairs = _mm256_blend_epi16(rounded, _mm256_srli_epi64(rounded, 16), 0x22);
    alignas(32) float halves[W];
    store(halves, (vf)pairs);
    for (int j = 0; j < W / 2; ++j) to[(i + j) * step] = halves[2 * j];
  }
  return is_zero ? 0.0f : top / 127.0f;
}

// For each set of lanes, which come first when those in the set do, in order.
struct FirstLanes {
  uint8_t lanes[256][W];
  constexpr FirstLanes() : lanes() {
    for (int set = 0; set < 256; ++set)
      for (int i = 0, size = 0; i < W; ++i)
        if (set >> i & 1) lanes[set][size++] = static_cast<uint8_t>(i);
  }
};
constexpr FirstLanes FIRST_LANES;

// Write the lanes of a set side by side, and something after them up to a register; returns how many there are.
INLINE int64_t compress(int32_t* to, uint32_t set, __m256i lanes) {
  const __m128i order = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(FIRST_LANES.lanes[set]));
  const __m256i moved = _mm256_permutevar8x32_epi32(lanes, _mm256_cvtepu8_epi32(order));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), moved);
  return __builtin_popcount(set);
}

}  // namespace
#endif
