// The kernels for x86-64 processors with AVX2 and FMA.
#if defined(__x86_64__)
#include <immintrin.h>
#define TUILI_AVX2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,popcnt"))), \
                             apply_to = function)
#else
#pragma GCC target("avx2,fma,popcnt")
#endif

namespace {
constexpr int W = 8;
}
#include "backward.h"
#include "select.h"

const tuili::Kernels tuili::avx2_kernels = {pack_strip<Single>, normalize<Single>, attend<Single>,
    pack_gate<Single>, pack_means<Single>, select<Single>, pack_back, backward};
// For gate keys in int8.
const tuili::Kernels tuili::avx2int8_kernels = {nullptr, nullptr, nullptr, pack_gate<Duo>, pack_means<Duo>,
                                                select<Duo>};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
