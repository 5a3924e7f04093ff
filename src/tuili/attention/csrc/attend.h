// Attention of a tile of query tokens over the blocks each of them picked.
//
// Strip by strip over the union of the picks, so that a strip of keys or values is loaded once for all tokens of the
// tile that attend to it: first all scores, then each token's softmax, then the weighted sums.
#pragma once
#include "avx2.h"

namespace {

using tuili::MAX_CHUNK;
using tuili::MAX_TILE;
using tuili::Place;
using tuili::Scratch;
using tuili::Shared;
using tuili::Sizes;
using tuili::STRIP;

constexpr float NONE = -__builtin_inff();
constexpr int MAX_ROWS = W == 16 ? 12 : W == 8 ? 6 : 3;  // accumulators that fit the registers, strips wide

// Functions of their own where registers are few, so that the sums get them.
#if defined(TUILI_AVX512)
#define APART
#else
#define APART __attribute__((noinline))
#endif

INLINE float read(const void* from, int64_t index, bool is_bf16) {
  return is_bf16 ? bf16_to_float(static_cast<const uint16_t*>(from)[index]) : static_cast<const float*>(from)[index];
}

INLINE void fetch(const void* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(from) + i);
}

// Fetch `width` numbers that will be read soon.
INLINE void fetch_row(const void* from, int64_t begin, bool is_bf16, int64_t width) {
  const int64_t size = is_bf16 ? 2 : 4;
  fetch(static_cast<const char*>(from) + begin * size, width * size);
}

// Copy `width` numbers into cells `step` apart; the rest of the `cells` becomes 0. A null row is all 0.
template <class Cell>
INLINE void spread(const void* from, int64_t begin, bool is_bf16, int64_t width, int64_t cells, float* to,
                   int64_t step) {
  const int64_t whole = from ? width / Cell::PER_CELL : 0;
  const uint16_t* narrow = static_cast<const uint16_t*>(from) + begin;
  int64_t i = 0;
  if constexpr (Cell::PER_CELL == 2) {
    for (; i < whole; ++i) __builtin_memcpy(to + i * step, narrow + 2 * i, 4);
    if (from && width % 2) to[i++ * step] = cell(narrow[width - 1]);
  } else if (is_bf16) {
    for (; i < whole; ++i) to[i * step] = bf16_to_float(narrow[i]);
  } else {
    for (; i < whole; ++i) to[i * step] = static_cast<const float*>(from)[begin + i];
  }
  for (; i < cells; ++i) to[i * step] = 0.0f;
}

#if defined(TUILI_AVX512)
// The first `bytes` of up to 64 bytes.
INLINE __mmask64 first_bytes(int64_t bytes) { return bytes >= 64 ? ~0ull : bytes > 0 ? (1ull << bytes) - 1 : 0; }

// Put 16 rows of `bytes` side by side: cell i of all of them lies at `to` + 16 i. Null rows and what lies after the
// bytes up to `cells` count as 0. The bits of `flip` are turned in every cell.
INLINE void transpose(const void* const* rows, int64_t bytes, int64_t cells, float* to, int32_t flip = 0) {
  const __m512i flips = _mm512_set1_epi32(flip);
  for (int64_t first = 0; first < cells; first += 16) {
    const __mmask64 there = first_bytes(bytes - 4 * first);
    __m512i x[16];
    for (int r = 0; r < 16; ++r) {
      x[r] = flips;
      if (rows[r])
        x[r] ^= _mm512_maskz_loadu_epi8(there, static_cast<const char*>(rows[r]) + 4 * first);
    }
    __m512i y[16];  // y[4 g + c] holds in its quarter l column 4 l + c of the rows from 4 g on
    for (int g = 0; g < 4; ++g) {
      const __m512i* row = x + 4 * g;
      const __m512i low = _mm512_unpacklo_epi32(row[0], row[1]), high = _mm512_unpackhi_epi32(row[0], row[1]);
      const __m512i low2 = _mm512_unpacklo_epi32(row[2], row[3]), high2 = _mm512_unpackhi_epi32(row[2], row[3]);
      y[4 * g] = _mm512_unpacklo_epi64(low, low2), y[4 * g + 1] = _mm512_unpackhi_epi64(low, low2);
      y[4 * g + 2] = _mm512_unpacklo_epi64(high, high2), y[4 * g + 3] = _mm512_unpackhi_epi64(high, high2);
    }
    for (int c = 0; c < 4; ++c) {
      const __m512i even = _mm512_shuffle_i32x4(y[c], y[4 + c], 0x88), odd = _mm512_shuffle_i32x4(y[c], y[4 + c], 0xdd);
      const __m512i even2 = _mm512_shuffle_i32x4(y[8 + c], y[12 + c], 0x88);
      const __m512i odd2 = _mm512_shuffle_i32x4(y[8 + c], y[12 + c], 0xdd);
      const __m512i columns[4] = {_mm512_shuffle_i32x4(even, even2, 0x88), _mm512_shuffle_i32x4(odd, odd2, 0x88),
                                  _mm512_shuffle_i32x4(even, even2, 0xdd), _mm512_shuffle_i32x4(odd, odd2, 0xdd)};
      for (int l = 0; l < 4; ++l)
        if (first + 4 * l + c < cells) _mm512_storeu_si512(to + (first + 4 * l + c) * STRIP, columns[l]);
    }
  }
}
#endif

// 16 keys side by side: [cells][16].
template <class Cell>
INLINE void pack_keys(const void* const* keys, bool is_bf16, int64_t dim, int64_t cells, float* to) {
#if defined(TUILI_AVX512)
  if (Cell::PER_CELL == 2 || !is_bf16) return transpose(keys, dim * (is_bf16 ? 2 : 4), cells, to);
#elif defined(TUILI_AVX2)
  return is_bf16 ? transpose<Narrow>(keys, dim, cells, to) : transpose<Floats>(keys, dim, cells, to);
#endif
  for (int64_t i = 0; i < STRIP; ++i) spread<Cell>(keys[i], 0, is_bf16, dim, cells, to + i, STRIP);
}

// Two rows of bfloat16 as one of pairs; a null row is all 0.
INLINE void interleave(const uint16_t* one, const uint16_t* other, int64_t dim, int64_t width, float* to) {
  uint16_t* half = reinterpret_cast<uint16_t*>(to);
  for (int64_t j = 0; j < width; ++j) {
    half[2 * j] = one && j < dim ? one[j] : 0;
    half[2 * j + 1] = other && j < dim ? other[j] : 0;
  }
}

// A strip as a panel: keys as [cells][16], then values as [16][width], or [8][width] pairs of neighbouring keys.
template <class Cell>
void pack_strip(const DsaProblem& p, const Sizes& z, int64_t row, int64_t group, int64_t strip, float* panel) {
  const int64_t k_begin = row * p.k_stride[0] + group * p.k_stride[1];
  const int64_t v_begin = row * p.v_stride[0] + group * p.v_stride[1];
  const int64_t first = tuili::first_key(p, row);
  float* values = panel + z.cells * STRIP;
  const int64_t size = p.is_bf16 ? 2 : 4;
  const void *k[STRIP], *v[STRIP];
  for (int64_t i = 0; i < STRIP; ++i) {
    const int64_t key = strip * STRIP + i;
    const bool is_here = key >= first && key < p.keys;
    k[i] = is_here ? static_cast<const char*>(p.k) + (k_begin + key * p.k_stride[2]) * size : nullptr;
    v[i] = is_here ? static_cast<const char*>(p.v) + (v_begin + key * p.v_stride[2]) * size : nullptr;
  }
  pack_keys<Cell>(k, p.is_bf16, p.dim, z.cells, panel);
  for (int64_t i = 0; i < STRIP; i += Cell::PER_CELL) {
    if constexpr (Cell::PER_CELL == 1)
      spread<Cell>(v[i], 0, p.is_bf16, p.dim, z.width, values + i * z.width, 1);
    else
      interleave(static_cast<const uint16_t*>(v[i]), static_cast<const uint16_t*>(v[i + 1]), p.dim, z.width,
                 values + i / 2 * z.width);
  }
}

// Scores of TOKENS tokens' CHUNK rows with the 16 keys of a panel. One row is a chain of dependent additions, so few
// rows are summed in several chains.
template <class Cell, int TOKENS, int CHUNK>
INLINE void dots(const float* const* q, const float* panel, int64_t cells,
                 vf (&sums)[TOKENS * CHUNK][LANES_PER_STRIP]) {
  constexpr int ROWS = TOKENS * CHUNK, CHAINS = ROWS * 4 <= MAX_ROWS ? 4 : ROWS * 2 <= MAX_ROWS ? 2 : 1;
  vf parts[CHAINS][ROWS][LANES_PER_STRIP] = {};
  for (int64_t i = 0; i < cells; i += CHAINS)
#pragma GCC unroll 4
    for (int c = 0; c < CHAINS; ++c) {
      vf keys[LANES_PER_STRIP];
#pragma GCC unroll 4
      for (int l = 0; l < LANES_PER_STRIP; ++l) keys[l] = load(panel + (i + c) * STRIP + l * W);
#pragma GCC unroll 12
      for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 4
        for (int h = 0; h < CHUNK; ++h)
#pragma GCC unroll 4
          for (int l = 0; l < LANES_PER_STRIP; ++l) {
            vf& sum = parts[c][t * CHUNK + h][l];
            sum = Cell::multiply_add(sum, q[t] + (i + c) * CHUNK + h, keys[l]);
          }
    }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int l = 0; l < LANES_PER_STRIP; ++l) {
      vf sum = parts[0][r][l];
#pragma GCC unroll 4
      for (int c = 1; c < CHAINS; ++c) sum += parts[c][r][l];
      sums[r][l] = sum;
    }
}

template <class Cell, int TOKENS, int CHUNK>
APART void score(const float* const* q, const float* panel, int64_t cells, float* const* scores) {
  vf sums[TOKENS * CHUNK][LANES_PER_STRIP];
  dots<Cell, TOKENS, CHUNK>(q, panel, cells, sums);
#pragma GCC unroll 12
  for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 4
    for (int h = 0; h < CHUNK; ++h)
#pragma GCC unroll 4
      for (int l = 0; l < LANES_PER_STRIP; ++l) store(scores[t] + h * STRIP + l * W, sums[t * CHUNK + h][l]);
}

template <int N>
struct Count {
  static constexpr int value = N;
};

// Add the values of STRIPS strips, the second one's from `next` on, weighted, to TOKENS tokens' sums: COLUMNS vectors of
// the width at once.
template <class Cell, int TOKENS, int CHUNK, int COLUMNS, int STRIPS>
INLINE void add_columns(const float* const* weights, const float* values, const float* next, int64_t value_rows,
                        int64_t width, float* const* sums) {
  vf parts[TOKENS * CHUNK][COLUMNS];
#pragma GCC unroll 4
  for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 4
    for (int h = 0; h < CHUNK; ++h)
#pragma GCC unroll 4
      for (int c = 0; c < COLUMNS; ++c) parts[t * CHUNK + h][c] = load(sums[t] + h * width + c * W);
  const int64_t rows = W == 16 ? value_rows : STRIP / Cell::PER_CELL;  // a constant saves registers
#pragma GCC unroll 2
  for (int n = 0; n < STRIPS; ++n)
    for (int64_t i = 0; i < rows; ++i) {
      vf row[COLUMNS];
#pragma GCC unroll 4
      for (int c = 0; c < COLUMNS; ++c) row[c] = load((n ? next : values) + i * width + c * W);
#pragma GCC unroll 4
      for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 4
        for (int h = 0; h < CHUNK; ++h)
#pragma GCC unroll 4
          for (int c = 0; c < COLUMNS; ++c) {
            vf& sum = parts[t * CHUNK + h][c];
            sum = Cell::multiply_add(sum, weights[t] + (n * CHUNK + h) * STRIP + i, row[c]);
          }
    }
#pragma GCC unroll 4
  for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 4
    for (int h = 0; h < CHUNK; ++h)
#pragma GCC unroll 4
      for (int c = 0; c < COLUMNS; ++c) store(sums[t] + h * width + c * W, parts[t * CHUNK + h][c]);
}

template <class Cell, int TOKENS, int CHUNK, int STRIPS = 1>
APART void add_values(const float* const* weights, const float* values, const Sizes& z, float* const* sums,
                      const float* next = nullptr) {
  const float* at[TOKENS];
  float* to[TOKENS];
  for (int t = 0; t < TOKENS; ++t) at[t] = weights[t], to[t] = sums[t];
  int64_t column = 0;
  const auto move = [&](int64_t by) __attribute__((always_inline)) {
    column += by;
    for (int t = 0; t < TOKENS; ++t) to[t] += by;
  };
  const auto add = [&](auto columns) __attribute__((always_inline)) {
    constexpr int COLUMNS = decltype(columns)::value;
    for (; column + COLUMNS * W <= z.width; move(COLUMNS * W))
      add_columns<Cell, TOKENS, CHUNK, COLUMNS, STRIPS>(at, values + column, next + column, z.value_rows, z.width, to);
  };
  if constexpr (W == 16 || TOKENS * CHUNK * 4 <= 2 * MAX_ROWS) add(Count<4>{});
  add(Count<2>{});
  add(Count<1>{});
}

template <class Cell>
INLINE void store_weights(float* strip, int part, vf weights) {
  if constexpr (Cell::PER_CELL == 1)
    store(strip + part * W, weights);
  else
    Cell::store_narrow(strip, weights);
}

// Turn a token's scores into weights exp(scale * (score - largest)); `totals` gets their sums.
template <class Cell, int CHUNK>
void soften(float* scores, int64_t slots, float scale_log2e, float* totals) {
  vf best[CHUNK], sum[CHUNK] = {};
#pragma GCC unroll 4
  for (int h = 0; h < CHUNK; ++h) best[h] = splat(NONE);
  for (int64_t i = 0; i < slots; ++i)
#pragma GCC unroll 4
    for (int h = 0; h < CHUNK; ++h)
#pragma GCC unroll 4
      for (int l = 0; l < LANES_PER_STRIP; ++l) best[h] = max(best[h], load(scores + (i * CHUNK + h) * STRIP + l * W));
  float shift[CHUNK];
  for (int h = 0; h < CHUNK; ++h) {
    const float top = largest(best[h]);
    shift[h] = top == NONE ? 0.0f : top * scale_log2e;  // no key at all: all weights 0
  }
  for (int64_t i = 0; i < slots; ++i)
#pragma GCC unroll 4
    for (int h = 0; h < CHUNK; ++h)
#pragma GCC unroll 4
      for (int l = 0; l < LANES_PER_STRIP; ++l) {
        float* at = scores + (i * CHUNK + h) * STRIP;
        const vf weight = exp2(load(at + l * W) * scale_log2e - shift[h]);
        sum[h] += weight;
        store_weights<Cell>(at, l, weight);
      }
  for (int h = 0; h < CHUNK; ++h) totals[h] = total(sum[h]);
}


// The logarithm of the sum of exp(scale * score), 0 where there is no score.
template <int CHUNK>
void log_totals(const float* scores, int64_t slots, float scale_log2e, float* to) {
  for (int h = 0; h < CHUNK; ++h) {
    vf best = splat(NONE), sum = {};
    for (int64_t i = 0; i < slots; ++i)
      for (int l = 0; l < LANES_PER_STRIP; ++l) best = max(best, load(scores + (i * CHUNK + h) * STRIP + l * W));
    const float top = largest(best);
    if (top == NONE) {
      to[h] = 0.0f;
      continue;
    }
    for (int64_t i = 0; i < slots; ++i)
      for (int l = 0; l < LANES_PER_STRIP; ++l)
        sum += exp2((load(scores + (i * CHUNK + h) * STRIP + l * W) - top) * scale_log2e);
    to[h] = (top * scale_log2e + __builtin_log2f(total(sum))) * 0.69314718f;
  }
}

// Whether every token of a place reads all of a strip, or may.
INLINE bool shows(const DsaProblem& p, const Sizes& z, const Place& place, int64_t strip) {
  const int64_t last = z.offset + place.first - strip * STRIP, first = tuili::first_key(p, place.row) - strip * STRIP;
  return !p.window && last >= STRIP - 1 && first <= 0;
}

// Scores of keys that lie after token t, before the row's first key or between sink and window become -inf.
INLINE void hide(const DsaProblem& p, const Sizes& z, const Place& place, int64_t t, int64_t strip, int64_t heads,
                 float* scores) {
  const int64_t last = z.offset + place.first + t - strip * STRIP;
  const int64_t first = tuili::first_key(p, place.row) - strip * STRIP;
  const int64_t sink = p.window ? first + p.window_sink : STRIP, window = p.window ? last - p.window + 1 : 0;
  if (last >= STRIP - 1 && first <= 0 && (sink >= STRIP || window <= 0)) return;
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t i = 0; i < STRIP; ++i)
      if (i > last || i < first || (i >= sink && i < window)) scores[h * STRIP + i] = NONE;
}

// The tile's tokens of one chunk of query heads, and where each of them stands in its own list of strips.
template <class Cell, int CHUNK>
struct Tile {
  const DsaProblem& p;
  const Sizes& z;
  const Shared& shared;
  const Place& place;
  const Scratch& s;
  int64_t head;  // first query head of the chunk, within the group
  int64_t slots[MAX_TILE] = {};

  const float* panel(int64_t strip) const {
    if (z.packs_all) return shared.panels + ((place.row * p.groups + place.group) * z.strips + strip) * z.panel;
    pack_strip<Cell>(p, z, place.row, place.group, strip, s.strip);
    return s.strip;
  }
  float* query(int64_t t) const { return s.q + t * z.cells * CHUNK; }
  float* scores(int64_t t, int64_t slot) const { return s.scores + (t * z.slots + slot) * CHUNK * STRIP; }
  float* sums(int64_t t) const { return s.sums + t * CHUNK * z.width; }

  int64_t query_begin(int64_t t, int h) const {
    const int64_t q_head = place.group * p.heads_per_group + head + h;
    return place.row * p.q_stride[0] + q_head * p.q_stride[1] + (place.first + t) * p.q_stride[2];
  }

  void load_queries() {
    const int64_t num = place.last - place.first;
    for (int64_t t = 0; t < num; ++t)
      for (int h = 0; h < CHUNK; ++h) fetch_row(p.q, query_begin(t, h), p.is_bf16, p.dim);
    for (int64_t t = 0; t < num; ++t)
      for (int h = 0; h < CHUNK; ++h)
        spread<Cell>(p.q, query_begin(t, h), p.is_bf16, p.dim, z.cells, query(t) + h, CHUNK);
  }

  template <int TOKENS>
  void score_some(const int* tokens, int64_t strip, const float* keys, bool is_shown) {
    const float* from[TOKENS];
    float* to[TOKENS];
    for (int i = 0; i < TOKENS; ++i) {
      from[i] = query(tokens[i]);
      to[i] = scores(tokens[i], slots[tokens[i]]++);
    }
    score<Cell, TOKENS, CHUNK>(from, keys, z.cells, to);
    for (int i = 0; i < TOKENS && !is_shown; ++i) hide(p, z, place, tokens[i], strip, CHUNK, to[i]);
  }

  template <int TOKENS, int STRIPS>
  void add_some(const int* tokens, const float* values, const float* next) {
    const float* from[TOKENS];
    float* to[TOKENS];
    for (int i = 0; i < TOKENS; ++i) {
      from[i] = scores(tokens[i], slots[tokens[i]]);
      slots[tokens[i]] += STRIPS;
      to[i] = sums(tokens[i]);
    }
    add_values<Cell, TOKENS, CHUNK, STRIPS>(from, values, z, to, next);
  }

  template <int STRIPS = 1>
  void add_each(const int* tokens, int count, const float* values, const float* next = nullptr) {
    int i = 0;
    if constexpr (CHUNK * 2 <= MAX_ROWS && CHUNK <= 3)
      for (; i + 2 <= count; i += 2) add_some<2, STRIPS>(tokens + i, values, next);
    for (; i < count; ++i) add_some<1, STRIPS>(tokens + i, values, next);
  }

  // Two strips at once for the tokens that attend to both, so that their sums are loaded and stored once.
  void add_in_twos() {
    for (int64_t t = 0; t < MAX_TILE; ++t) slots[t] = 0;
    const int64_t num = *s.num_wanted, keys = z.cells * STRIP, size = z.value_rows * z.width;
    for (int64_t i = 0; i < num; i += 2) {
      const bool is_pair = i + 1 < num;
      const int32_t first = s.wanted[i], second = s.wanted[is_pair ? i + 1 : i];
      for (int64_t j = i + 2; j < tuili::least(i + 4, num); ++j) fetch(panel(s.wanted[j]) + keys, size * 4);
      const uint32_t of_first = s.members[first], of_second = is_pair ? s.members[second] : 0;
      const float *values = panel(first) + keys, *next = panel(second) + keys;
      int tokens[MAX_TILE];
      add_each<2>(tokens, list(of_first & of_second, tokens), values, next);
      add_each(tokens, list(of_first & ~of_second, tokens), values);
      add_each(tokens, list(of_second & ~of_first, tokens), next);
    }
  }

  static int list(uint32_t members, int* tokens) {
    int num = 0;
    for (; members; members &= members - 1) tokens[num++] = __builtin_ctz(members);
    return num;
  }

  // Call `work` with the strips of the union of the picks and the tokens that attend to each; the part of the next
  // strip's panel that `work` will want, `size` cells from `begin`, is fetched meanwhile.
  template <class Work>
  __attribute__((always_inline)) void each_strip(int64_t begin, int64_t size, Work work) {
    for (int64_t t = 0; t < MAX_TILE; ++t) slots[t] = 0;
    for (int64_t i = 0; i < *s.num_wanted; ++i) {
      if (z.packs_all && i + 1 < *s.num_wanted) fetch(panel(s.wanted[i + 1]) + begin, size * 4);
      int tokens[MAX_TILE];
      const int num = list(s.members[s.wanted[i]], tokens);
      work(s.wanted[i], tokens, num);
    }
  }

  void score_all() {
    load_queries();
    each_strip(0, z.cells * STRIP, [&](int64_t strip, const int* tokens, int count) {
      const float* keys = panel(strip);
      const bool is_shown = shows(p, z, place, strip);
      int i = 0;
      if constexpr (4 * CHUNK <= MAX_ROWS)
        for (; i + 4 <= count; i += 4) score_some<4>(tokens + i, strip, keys, is_shown);
      if constexpr (2 * CHUNK <= MAX_ROWS)
        for (; i + 2 <= count; i += 2) score_some<2>(tokens + i, strip, keys, is_shown);
      for (; i < count; ++i) score_some<1>(tokens + i, strip, keys, is_shown);
    });
  }

  float scale_log2e() const { return static_cast<float>(p.scale * 1.4426950408889634); }

  void normalize() {
    score_all();
    for (int64_t t = 0; t < place.last - place.first; ++t)
      log_totals<CHUNK>(scores(t, 0), slots[t], scale_log2e(), s.offsets + t * p.heads_per_group + head);
  }

  void run() {
    const int64_t num = place.last - place.first;
    score_all();
    for (int64_t t = 0; t < num; ++t) soften<Cell, CHUNK>(scores(t, 0), slots[t], scale_log2e(), s.totals + t * CHUNK);
    __builtin_memset(s.sums, 0, sizeof(float) * num * CHUNK * z.width);
    if (W == 8 && z.packs_all)
      add_in_twos();
    else
      each_strip(z.cells * STRIP, z.value_rows * z.width, [&](int64_t strip, const int* tokens, int count) {
        add_each(tokens, count, panel(strip) + z.cells * STRIP);
      });
    for (int64_t t = 0; t < num; ++t)
      for (int h = 0; h < CHUNK; ++h) write(t, h);
  }

  void write(int64_t t, int h) const {
    const float all = s.totals[t * CHUNK + h], share = all > 0 ? 1 / all : 0;
    const float* sum = sums(t) + h * z.width;
    const int64_t q_head = place.group * p.heads_per_group + head + h;
    const int64_t begin = place.row * p.out_stride[0] + q_head * p.out_stride[1] + (place.first + t) * p.out_stride[2];
    if (p.is_bf16)
      for (int64_t i = 0; i < p.dim; ++i) static_cast<uint16_t*>(p.out)[begin + i] = float_to_bf16(sum[i] * share);
    else
      for (int64_t i = 0; i < p.dim; ++i) static_cast<float*>(p.out)[begin + i] = sum[i] * share;
  }
};

// Note for every strip which tokens of the tile attend to it. Blocks after a token or before the first key hold none.
inline void note_members(const DsaProblem& p, const Sizes& z, const Place& place, const Scratch& s) {
  const int64_t first = tuili::first_key(p, place.row) / STRIP, last = (z.offset + place.last - 1) / STRIP;
  for (int64_t strip = first; strip <= last; ++strip) s.members[strip] = 0;
  for (int64_t t = 0; t < place.last - place.first; ++t) {
    const int64_t here = (z.offset + place.first + t) / STRIP;
    for (int64_t i = 0; i < s.num_picked[t]; ++i) {
      const int64_t begin = s.picked[t * p.keep + i] * z.strips_per_block;
      const int64_t end = tuili::least(begin + z.strips_per_block - 1, here);
      for (int64_t strip = tuili::most(begin, first); strip <= end; ++strip) s.members[strip] |= 1u << t;
    }
  }
  *s.num_wanted = 0;
  for (int64_t strip = first; strip <= last; ++strip)
    if (s.members[strip]) s.wanted[(*s.num_wanted)++] = static_cast<int32_t>(strip);
}

// Call `work` with a tile of each chunk of the group's query heads.
template <class Cell, class Work>
void each_chunk(const DsaProblem& p, const Sizes& z, const Shared& shared, const Place& place, const Scratch& s,
                Work work) {
  for (int64_t head = 0, left = p.heads_per_group; left > 0;) {
    const int64_t chunk = left <= 4 ? left : left == 5 || left == 6 || left == 9 ? 3 : 4;
    if (chunk == 4) work(Tile<Cell, 4>{p, z, shared, place, s, head});
    if (chunk == 3) work(Tile<Cell, 3>{p, z, shared, place, s, head});
    if (chunk == 2) work(Tile<Cell, 2>{p, z, shared, place, s, head});
    if (chunk == 1) work(Tile<Cell, 1>{p, z, shared, place, s, head});
    head += chunk, left -= chunk;
  }
}

template <class Cell>
void attend(const DsaProblem& p, const Sizes& z, const Shared& shared, const Place& place, const Scratch& s) {
  note_members(p, z, place, s);
  each_chunk<Cell>(p, z, shared, place, s, [](auto tile) { tile.run(); });
}

// Note the strips that each token keeps whatever is selected.
inline void note_kept(const DsaProblem& p, const Sizes& z, const Place& place, const Scratch& s) {
  const int64_t first_key = tuili::first_key(p, place.row), first = first_key / p.block;
  for (int64_t t = 0; t < place.last - place.first; ++t) {
    const int64_t position = z.offset + place.first + t, here = position / p.block;
    int32_t* to = s.picked + t * p.keep;
    int32_t size = 0;
    if (position >= first_key) {
      for (int64_t i = first; i < first + p.sink && i <= here; ++i) to[size++] = static_cast<int32_t>(i);
      for (int64_t i = tuili::most(first + p.sink, here - p.local + 1); i <= here; ++i) to[size++] = static_cast<int32_t>(i);
    }
    s.num_picked[t] = size;
  }
  note_members(p, z, place, s);
}

// Fill `offsets`: what each head's attention to the keys that are always kept adds up to.
template <class Cell>
void normalize(const DsaProblem& p, const Sizes& z, const Shared& shared, const Place& place, const Scratch& s) {
  note_kept(p, z, place, s);
  each_chunk<Cell>(p, z, shared, place, s, [](auto tile) { tile.normalize(); });
}

}  // namespace
