// The kernels for x86-64 processors with AVX-512 (F, BW, DQ, VL).
#if defined(__x86_64__)
#include <immintrin.h>
#define TUILI_AVX512
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#endif

namespace {
constexpr int W = 16;
}
#include "backward.h"
#include "select.h"

const tuili::Kernels tuili::avx512_kernels = {pack_strip<Single>, normalize<Single>, attend<Single>,
    pack_gate<Single>, pack_means<Single>, select<Single>, pack_back, backward};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
