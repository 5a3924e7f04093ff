// Vectors of W lanes, the same source for every instruction set; the including file fixes W.
#pragma once
#include "dsa.h"

namespace {

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef float unaligned_vf __attribute__((vector_size(4 * W), aligned(4), may_alias));

constexpr int LANES_PER_STRIP = tuili::STRIP / W;  // vectors that hold one strip

#define INLINE static inline __attribute__((always_inline))

INLINE vf load(const float* from) { return *reinterpret_cast<const unaligned_vf*>(from); }
INLINE void store(float* to, vf x) { *reinterpret_cast<unaligned_vf*>(to) = x; }
INLINE vf splat(float x) { return x - vf{}; }  // minus keeps the sign of a zero
INLINE vf max(vf a, vf b) { return a > b ? a : b; }
INLINE float cell(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
INLINE float bf16_to_float(uint16_t x) { return cell(static_cast<uint32_t>(x) << 16); }
INLINE uint16_t float_to_bf16(float x) {  // to nearest, ties to even
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  if (x != x) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

INLINE uint32_t bits_of(vi is_true) {
#if defined(TUILI_AVX512)
  return _mm512_movepi32_mask((__m512i)is_true);
#elif defined(TUILI_AVX2)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)is_true));
#else
  uint32_t bits = 0;
  for (int i = 0; i < W; ++i) bits |= (is_true[i] & 1u) << i;
  return bits;
#endif
}

INLINE float largest(vf x) {
  float best = x[0];
  for (int i = 1; i < W; ++i) best = x[i] > best ? x[i] : best;
  return best;
}
INLINE float total(vf x) {
  float sum = 0;
  for (int i = 0; i < W; ++i) sum += x[i];
  return sum;
}

// 2^x, relative error below 3e-7; 0 below 2^-126.
INLINE vf exp2(vf x) {
  const float magic = 12582912.0f;  // adding it rounds to whole numbers
  x = max(x, splat(-127.0f));
  const vf shifted = x + magic;
  const vf f = x - (shifted - magic);
  vf y = splat(1.327647069e-3f);
  y = y * f + 9.675541324e-3f;
  y = y * f + 5.550713278e-2f;
  y = y * f + 2.402211972e-1f;
  y = y * f + 6.931469671e-1f;
  y = y * f + 1.000000072f;
  const vi exponent = reinterpret_cast<vi>(shifted) - (0x4b400000 - 127);
  return y * reinterpret_cast<vf>(exponent << 23);
}

// What a cell holds: one float ...
struct Single {
  static constexpr int PER_CELL = 1;
  using Sum = vf;  // what products add up to
  INLINE vf keys(const float* from) { return load(from); }
  INLINE vf begin(float x) { return splat(x); }
  INLINE vf lowest() { return splat(-__builtin_inff()); }
  INLINE vf larger(vf a, vf b) { return max(a, b); }
  INLINE vf value(vf sum) { return sum; }
  INLINE vf multiply_add(vf sum, const float* one, vf many) { return sum + *one * many; }
};

#if defined(TUILI_BF16_DOT)
// ... or two bfloat16, multiplied and added in float.
struct Pair {
  static constexpr int PER_CELL = 2;
  INLINE vf multiply_add(vf sum, const float* one, vf many) {
    const __m512i both = _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(one));
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)both, (__m512bh)many);
  }
  INLINE void store_narrow(float* to, vf x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh((__m512)x));
  }
};
#endif

#if defined(TUILI_AVX2)
// ... or two int16, multiplied and added in int32: int8 with room to spare, so that no sum of products is cut off.
struct Duo {
  static constexpr int PER_CELL = 2;
  using Sum = __m256i;
  INLINE Sum keys(const float* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  INLINE Sum begin(float) { return _mm256_setzero_si256(); }
  INLINE Sum lowest() { return _mm256_set1_epi32(INT32_MIN); }
  INLINE Sum larger(Sum a, Sum b) { return _mm256_max_epi32(a, b); }
  INLINE vf value(Sum sum) { return (vf)_mm256_cvtepi32_ps(sum); }
  // Written out, since compilers keep the sums in memory when they choose the registers for the intrinsics.
  INLINE Sum multiply_add(Sum sum, const float* one, Sum many) {
    const __m256i both = _mm256_castps_si256(_mm256_broadcast_ss(one));
    __m256i products;
    asm("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(many), "x"(both));
    return sum;
  }
};
#endif

#if defined(TUILI_INT8_DOT)
// ... or four int8: those of keys plus 128, without a sign, those of queries as they are. Sums are int32.
struct Quad {
  static constexpr int PER_CELL = 4;
  using Sum = __m512i;
  INLINE Sum keys(const float* from) { return _mm512_loadu_si512(from); }
  INLINE Sum begin(float bits) {
    int32_t x;
    __builtin_memcpy(&x, &bits, 4);
    return _mm512_set1_epi32(x);
  }
  INLINE Sum lowest() { return _mm512_set1_epi32(INT32_MIN); }
  INLINE Sum larger(Sum a, Sum b) { return _mm512_max_epi32(a, b); }
  INLINE vf value(Sum sum) { return (vf)_mm512_cvtepi32_ps(sum); }
  // Written out, since compilers copy the sums about when they choose the registers for the intrinsic.
  INLINE Sum multiply_add(Sum sum, const float* one, Sum many) {
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(many), "m"(*one));
    return sum;
  }
};
#endif

}  // namespace
