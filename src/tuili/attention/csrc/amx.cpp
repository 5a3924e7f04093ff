// The kernels for bfloat16 on x86-64 processors with matrix tiles (AMX): products of up to 16 rows at once.
//
// Neighbouring tokens, as many as have 16 rows of queries, go together over the union of their picks; a key that a token
// did not pick gets the weight 0.
#include "dsa.h"

#if TUILI_HAS_TILES
#include <immintrin.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TUILI_AVX512
#define TUILI_BF16_DOT
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#endif

namespace {
constexpr int W = 16;
}
#include "tiles.h"

namespace {

using tuili::STRIPS_AT_ONCE;

constexpr float LEEWAY = 16;  // a weight is at most 2^16
constexpr int64_t MAX_ROWS_TILED = MAX_TILE * TILE_ROWS;  // a group has a token at least

// Sums in tiles 0 to 3, queries in 4, keys in 5, weights in 6, values in 7.
INLINE void configure(int64_t rows) {
  TileConfig config;
  for (const int tile : {0, 1, 2, 3, 4}) config.set(tile, rows, 64);
  config.set(5, 16, 64), config.set(6, rows, 32), config.set(7, 8, 64);
  configure(config);
}

// The tokens of a place and a chunk of their query heads, in groups of as many tokens as fill a tile: row r of a group is
// head r % heads of its token r / heads. Keys come some strips of the union of all picks at a time, so that their panels
// are still in the caches for the next group, with the softmax's largest score so far ("top") as in FlashAttention
// (Dao et al. 2022); sums are made anew only when a score is so much above it that weights could overflow.
struct Tiled {
  const DsaProblem& p;
  const Sizes& z;
  const Shared& shared;
  const Place& place;
  const Scratch& s;
  int64_t head, heads;  // the chunk, within the group of the key-value head
  int64_t per_group = TILE_ROWS / heads, num = place.last - place.first;
  float scale = static_cast<float>(p.scale * 1.4426950408889634);
  float tops[MAX_ROWS_TILED], shifts[MAX_ROWS_TILED];
  vf totals[MAX_ROWS_TILED];

  // What a group does with some strips.
  struct Step {
    int64_t row, first, tokens, rows;  // row: of the place; first: token of the place
    int64_t size = 0;
    int32_t strips[STRIPS_AT_ONCE];
    uint32_t members[STRIPS_AT_ONCE];  // of the group's tokens
    vf best[TILE_ROWS];
  };

  const float* panel(int64_t strip) const {
    return shared.panels + ((place.row * p.groups + place.group) * z.strips + strip) * z.panel;
  }
  float* scores(int64_t i) const { return s.scores + i * TILE_ROWS * STRIP; }
  int64_t at(const int64_t* stride, int64_t t, int64_t h) const {
    return place.row * stride[0] + (place.group * p.heads_per_group + head + h) * stride[1] +
           (place.first + t) * stride[2];
  }
  int64_t row_of(int64_t t) const { return t / per_group * TILE_ROWS + t % per_group * heads; }

  template <bool ATTENDS>
  void go_through() {
    for (int64_t t = 0; t < num; ++t)
      for (int64_t h = 0; h < heads; ++h) {
        uint16_t* to = reinterpret_cast<uint16_t*>(s.q + (row_of(t) + h) * z.cells);
        __builtin_memcpy(to, static_cast<const uint16_t*>(p.q) + at(p.q_stride, t, h), p.dim * 2);
        __builtin_memset(to + p.dim, 0, (z.width - p.dim) * 2);
      }
    const int64_t num_rows = (num + per_group - 1) / per_group * TILE_ROWS;
    for (int64_t r = 0; r < num_rows; ++r) tops[r] = NONE, shifts[r] = 0.0f, totals[r] = vf{};
    if (ATTENDS) __builtin_memset(s.sums, 0, sizeof(float) * num_rows * z.width);
    int64_t configured = 0;
    for (int64_t begin = 0; begin < *s.num_wanted; begin += STRIPS_AT_ONCE) {
      const int64_t end = tuili::least(begin + STRIPS_AT_ONCE, *s.num_wanted);
      for (int64_t first = 0; first < num; first += per_group) {
        const int64_t tokens = tuili::least(num - first, per_group);
        Step step{row_of(first), first, tokens, tokens * heads};
        for (int64_t i = begin; i < end; ++i)
          if (const uint32_t members = s.members[s.wanted[i]] >> first & ((1u << tokens) - 1))
            step.strips[step.size] = s.wanted[i], step.members[step.size++] = members;
        if (!step.size) continue;
        if (step.rows != configured) configure(configured = step.rows);
        score<ATTENDS>(step);
        soften<ATTENDS>(step);
        if (ATTENDS) add(step);
      }
    }
  }

  template <bool ATTENDS>
  void score(Step& step) {
    for (int64_t r = 0; r < step.rows; ++r) step.best[r] = splat(NONE);
    int64_t i = 0;
    for (; i + 4 <= step.size; i += 4) score_some<4>(step, i);
    for (; i < step.size; ++i) score_some<1>(step, i);
    for (i = 0; i < step.size; ++i) note_best(step, i);
    for (int64_t r = 0; r < step.rows; ++r)
      if (bits_of(step.best[r] > tops[step.row + r] + LEEWAY / scale))
        raise<ATTENDS>(step.row + r, largest(step.best[r]));
  }

  template <int STRIPS>
  void score_some(const Step& step, int64_t first) {
    times<STRIPS>([](auto n) __attribute__((always_inline)) { zero_tile<n.value>(); });
    for (int64_t i = 0; i < z.cells; i += TILE_ROWS) {
      load_tile<4>(s.q + step.row * z.cells + i, z.cells);
      times<STRIPS>([&](auto n) __attribute__((always_inline)) {
        load_tile<5>(panel(step.strips[first + n.value]) + i * STRIP, STRIP);
        add_product<n.value, 4, 5>();
      });
    }
    times<STRIPS>([&](auto n) __attribute__((always_inline)) { store_tile<n.value>(scores(first + n.value), STRIP); });
  }

  void note_best(Step& step, int64_t i) const {
    const bool is_shown = shows(p, z, place, step.strips[i]);
    float* row = scores(i);
    for (int64_t t = 0, r = 0; t < step.tokens; ++t) {
      if (step.members[i] >> t & 1) {
        if (!is_shown) hide(p, z, place, step.first + t, step.strips[i], heads, row);
      } else {
        for (int64_t h = 0; h < heads; ++h) store(row + h * STRIP, splat(NONE));
      }
      for (int64_t h = 0; h < heads; ++h, ++r, row += STRIP) step.best[r] = max(step.best[r], load(row));
    }
  }

  // Set a row's top, and make what was added up before fit it.
  template <bool ATTENDS>
  void raise(int64_t row, float top) {
    const float factor = tops[row] == NONE ? 0.0f : exp2(splat((tops[row] - top) * scale))[0];
    tops[row] = top, shifts[row] = top * scale;
    totals[row] *= factor;
    float* sums = s.sums + row * z.width;
    for (int64_t i = 0; ATTENDS && i < z.width; i += W) store(sums + i, load(sums + i) * factor);
  }

  // Turn scores into weights, where `KEEPS` in bfloat16 at the beginning of their rows, and add them up.
  template <bool KEEPS>
  void soften(const Step& step) {
    for (int64_t r = 0; r < step.rows; ++r) {
      const float shift = shifts[step.row + r];
      vf total = totals[step.row + r];
      float* row = s.scores + r * STRIP;
#pragma GCC unroll 4
      for (int64_t i = 0; i < step.size; ++i, row += TILE_ROWS * STRIP) {
        const vf weight = exp2(load(row) * scale - shift);
        total += weight;
        if (KEEPS) Pair::store_narrow(row, weight);
      }
      totals[step.row + r] = total;
    }
  }

  void add(const Step& step) {
    int64_t column = 0;
    for (; column + 4 * STRIP <= z.width; column += 4 * STRIP) add_columns_tiled<4>(step, column);
    for (; column < z.width; column += 2 * STRIP) add_columns_tiled<2>(step, column);
  }

  template <int COLUMNS>
  void add_columns_tiled(const Step& step, int64_t column) {
    float* sums = s.sums + step.row * z.width + column;
    times<COLUMNS>([&](auto n) __attribute__((always_inline)) { load_tile<n.value>(sums + n.value * STRIP, z.width); });
    for (int64_t i = 0; i < step.size; ++i) {
      const float* values = panel(step.strips[i]) + z.cells * STRIP + column;
      load_tile<6>(scores(i), STRIP);
      times<COLUMNS>([&](auto n) __attribute__((always_inline)) {
        load_tile<7>(values + n.value * STRIP, z.width);
        add_product<n.value, 6, 7>();
      });
    }
    times<COLUMNS>([&](auto n) __attribute__((always_inline)) { store_tile<n.value>(sums + n.value * STRIP, z.width); });
  }

  void run() {
    go_through<true>();
    for (int64_t t = 0; t < num; ++t)
      for (int64_t h = 0; h < heads; ++h) write(row_of(t) + h, static_cast<uint16_t*>(p.out) + at(p.out_stride, t, h));
  }

  void write(int64_t row, uint16_t* to) const {
    const float all = total(totals[row]), share = all > 0 ? 1 / all : 0;
    for (int64_t i = 0; i < p.dim; i += W) {
      const __m256i part = (__m256i)_mm512_cvtneps_pbh((__m512)(load(s.sums + row * z.width + i) * share));
      _mm256_mask_storeu_epi16(to + i, static_cast<__mmask16>((1u << tuili::least(p.dim - i, W)) - 1), part);
    }
  }

  void normalize() {
    go_through<false>();
    for (int64_t t = 0; t < num; ++t)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t row = row_of(t) + h;
        const float log_sum = (shifts[row] + __builtin_log2f(total(totals[row]))) * 0.69314718f;
        s.offsets[t * p.heads_per_group + head + h] = tops[row] == NONE ? 0.0f : log_sum;
      }
  }
};

template <class Work>
void each_chunk_tiled(const DsaProblem& p, const Sizes& z, const Shared& shared, const Place& place, const Scratch& s,
                      Work work) {
  for (int64_t head = 0; head < p.heads_per_group; head += TILE_ROWS) {
    Tiled tiled{p, z, shared, place, s, head, tuili::least(p.heads_per_group - head, TILE_ROWS)};
    work(tiled);
  }
  release();
}

void attend_tiled(const DsaProblem& p, const Sizes& z, const Shared& shared, const Place& place, const Scratch& s) {
  if (!z.is_tiled) return attend<Pair>(p, z, shared, place, s);
  note_members(p, z, place, s);
  each_chunk_tiled(p, z, shared, place, s, [](Tiled& tiled) { tiled.run(); });
}

void normalize_tiled(const DsaProblem& p, const Sizes& z, const Shared& shared, const Place& place, const Scratch& s) {
  if (!z.is_tiled) return normalize<Pair>(p, z, shared, place, s);
  note_kept(p, z, place, s);
  each_chunk_tiled(p, z, shared, place, s, [](Tiled& tiled) { tiled.normalize(); });
}

}  // namespace

const tuili::Kernels tuili::amx_kernels = {pack_strip<Pair>, normalize_tiled, attend_tiled, nullptr, nullptr, nullptr};

// Whether the processor has tiles, and the system lets this process use them once it has asked.
bool tuili::has_tiles() {
  constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
  constexpr unsigned WANTED = 1u << 22 | 1u << 24 | 1u << 25;  // bfloat16, tiles, int8
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & WANTED) != WANTED) return false;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
