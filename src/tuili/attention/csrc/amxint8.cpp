// The selection for gate keys in int8 on x86-64 processors with matrix tiles (AMX).
#include "dsa.h"

#if TUILI_HAS_TILES
#include <immintrin.h>
#define TUILI_AVX512
#define TUILI_INT8_DOT
#define TUILI_INT8_TILES
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")
#endif

namespace {
constexpr int W = 16;
}
#include "select.h"

const tuili::Kernels tuili::amxint8_kernels = {nullptr, nullptr, nullptr, pack_gate<Quad>, pack_means<Quad>,
                                               select<Quad>};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
