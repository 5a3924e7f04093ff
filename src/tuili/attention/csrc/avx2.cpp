// The kernels for x86-64 processors with AVX2 and FMA.
#if defined(__x86_64__)
#include <immintrin.h>
#define TUILI_AVX2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

namespace {
constexpr int W = 8;
}
#include "select.h"

const tuili::Kernels tuili::avx2_kernels = {pack_strip<Single>, normalize<Single>, attend<Single>,
    pack_gate<Single>, pack_means<Single>, select<Single>};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
