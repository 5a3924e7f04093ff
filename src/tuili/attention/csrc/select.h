// Selection for a tile of query tokens: the rule of tuili.attention.select, fused.
//
// Gate keys lie in groups of 16 neighbouring blocks, side by side, one panel for each sub-block of a block; so the
// maximum over sub-blocks and gate queries runs down registers. A token opens groups, all that hold candidates or those
// with the best mean gate keys, has a score for each of their blocks, and keeps the best.
#pragma once
#if defined(TUILI_INT8_TILES)
#include "tiles.h"
#else
#include "attend.h"
#endif

namespace {

constexpr int32_t OUT = INT32_MIN;  // the key of what is no candidate

INLINE vi ordered(vf x) {  // integers in the order of floats; both zeros are one
  const vi bits = reinterpret_cast<vi>(x + 0.0f);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
INLINE vi load_int(const int32_t* from) { return reinterpret_cast<vi>(load(reinterpret_cast<const float*>(from))); }

INLINE vf log_sigmoid(vf z) {
  const vf size = max(z, -z), y = exp2(size * -1.44269504f);
  const vf t = y / (y + 2.0f), tt = t * t;  // log(1 + y) = 2 artanh(y / (2 + y)), y at most 1
  vf series = splat(2.0f / 15);
  series = series * tt + 2.0f / 13;
  series = series * tt + 2.0f / 11;
  series = series * tt + 2.0f / 9;
  series = series * tt + 2.0f / 7;
  series = series * tt + 2.0f / 5;
  series = series * tt + 2.0f / 3;
  series = series * tt + 2.0f;
  return (z < vf{} ? z : vf{}) - t * series;
}

// Copy an int8 gate key into cells 16 apart: as floats, two int16 to a cell, or four with 128 added to each.
template <class Cell>
INLINE void spread_int8(const int8_t* from, int64_t width, int64_t cells, float* to) {
  if constexpr (Cell::PER_CELL == 4) {
    for (int64_t i = 0; i < cells; ++i) {
      uint32_t four = 0;
      __builtin_memcpy(&four, from + 4 * i, 4 * i + 4 <= width ? 4 : width > 4 * i ? width - 4 * i : 0);
      to[i * STRIP] = cell(four ^ 0x80808080u);
    }
  } else if constexpr (Cell::PER_CELL == 2) {
    for (int64_t i = 0; i < cells; ++i) {
      int16_t two[2] = {};
      for (int64_t j = 0; j < 2 && 2 * i + j < width; ++j) two[j] = from[2 * i + j];
      __builtin_memcpy(to + i * STRIP, two, 4);
    }
  } else {
    for (int64_t i = 0; i < cells; ++i) to[i * STRIP] = i < width ? from[i] : 0.0f;
  }
}

// 16 int8 gate keys side by side: [cells][16]. Null ones are all 0 (or 128 where that is added; their factor is 0).
template <class Cell>
INLINE void pack_int8(const void* const* keys, int64_t width, int64_t cells, float* to) {
#if defined(TUILI_AVX512)
  if constexpr (Cell::PER_CELL == 4) return transpose(keys, width, cells, to, static_cast<int32_t>(0x80808080u));
#elif defined(TUILI_AVX2)
  if constexpr (Cell::PER_CELL == 2) return transpose<Bytes>(keys, width, cells, to);
#endif
  for (int64_t i = 0; i < STRIP; ++i)
    spread_int8<Cell>(static_cast<const int8_t*>(keys[i]), keys[i] ? width : 0, cells, to + i);
}

inline int64_t gate_key_begin(const DsaProblem& p, int64_t row, int64_t at, int64_t group) {
  return row * p.gate_k_stride[0] + at * p.gate_k_stride[1] + group * p.gate_k_stride[2];
}

// Sub-block panels of a group of 16 blocks: gate keys as [subs][cells][16], then each block's factor [16].
template <class Cell>
void pack_gate(const DsaProblem& p, const Sizes& z, int64_t row, int64_t group, int64_t panel, float* out) {
  float* factors = out + z.subs_per_block * z.gate_cells * STRIP;
  const int64_t first = panel * STRIP, size = p.gate_is_int8 ? 1 : p.gate_is_bf16 ? 2 : 4;
  for (int64_t lane = 0; lane < STRIP; ++lane) {
    const bool is_here = first + lane < z.whole_blocks;
    const int64_t at = (row * z.whole_blocks + first + lane) * p.groups + group;
    factors[lane] = is_here && p.gate_is_int8 ? p.gate_scale[at] : is_here ? 1.0f : 0.0f;
  }
  for (int64_t i = 0; i < z.subs_per_block; ++i) {
    const void* keys[STRIP];
    for (int64_t lane = 0; lane < STRIP; ++lane) {
      const int64_t begin = gate_key_begin(p, row, (first + lane) * z.subs_per_block + i, group);
      keys[lane] = first + lane < z.whole_blocks ? static_cast<const char*>(p.gate_k) + begin * size : nullptr;
    }
    float* to = out + i * z.gate_cells * STRIP;
    if (p.gate_is_int8)
      pack_int8<Cell>(keys, p.gate_dim, z.gate_cells, to);
    else
      pack_keys<Cell>(keys, p.gate_is_bf16, p.gate_dim, z.gate_cells, to);
  }
}

// The mean gate keys of 16 blocks side by side [cells][16], then the factor of each [16].
template <class Cell>
void pack_means(const DsaProblem& p, const Sizes& z, int64_t row, int64_t group, int64_t panel, float* out) {
  float* factors = out + z.gate_cells * STRIP;
  for (int64_t lane = 0; lane < STRIP; ++lane) {
    const int64_t block = panel * STRIP + lane, at = (row * z.whole_blocks + block) * p.groups + group;
    const bool is_here = block < z.whole_blocks;
    factors[lane] = is_here && p.gate_is_int8 ? p.mean_scale[at] : is_here ? 1.0f : 0.0f;
    for (int64_t i = 0; i < z.gate_cells; ++i) out[i * STRIP + lane] = 0.0f;
    if (!is_here) continue;
    if (p.gate_is_int8) {
      spread_int8<Cell>(p.means + at * p.gate_dim, p.gate_dim, z.gate_cells, out + lane);
      continue;
    }
    for (int64_t i = 0; i < p.gate_dim; ++i) {
      float sum = 0.0f;
      for (int64_t sub = 0; sub < z.subs_per_block; ++sub)
        sum += read(p.gate_k, gate_key_begin(p, row, block * z.subs_per_block + sub, group) + i, p.gate_is_bf16);
      out[i * STRIP + lane] = sum / static_cast<float>(z.subs_per_block);
    }
  }
}

// Raise `best` [TOKENS * CHUNK] to the dot products with PANELS panels. A function of its own, so that the sums get
// the registers.
template <class Cell, int TOKENS, int CHUNK, int PANELS>
__attribute__((noinline)) void gate_dots(const float* const* q, const float* panels, int64_t cells,
                                         typename Cell::Sum* best) {
  using Sum = typename Cell::Sum;
  Sum parts[PANELS][TOKENS * CHUNK][LANES_PER_STRIP];
#pragma GCC unroll 4
  for (int n = 0; n < PANELS; ++n)
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 4
      for (int h = 0; h < CHUNK; ++h)
#pragma GCC unroll 4
        for (int l = 0; l < LANES_PER_STRIP; ++l) parts[n][t * CHUNK + h][l] = Cell::begin(q[t][cells * CHUNK + h]);
  for (int64_t i = 0; i < cells; ++i) {
    Sum keys[PANELS][LANES_PER_STRIP];
#pragma GCC unroll 4
    for (int n = 0; n < PANELS; ++n)
#pragma GCC unroll 4
      for (int l = 0; l < LANES_PER_STRIP; ++l) keys[n][l] = Cell::keys(panels + (n * cells + i) * STRIP + l * W);
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 4
      for (int h = 0; h < CHUNK; ++h)
#pragma GCC unroll 4
        for (int n = 0; n < PANELS; ++n)
#pragma GCC unroll 4
          for (int l = 0; l < LANES_PER_STRIP; ++l) {
            Sum& sum = parts[n][t * CHUNK + h][l];
            sum = Cell::multiply_add(sum, q[t] + i * CHUNK + h, keys[n][l]);
          }
  }
#pragma GCC unroll 16
  for (int r = 0; r < TOKENS * CHUNK; ++r)
#pragma GCC unroll 4
    for (int l = 0; l < LANES_PER_STRIP; ++l) {
      Sum top = best[r * LANES_PER_STRIP + l];
#pragma GCC unroll 4
      for (int n = 0; n < PANELS; ++n) top = Cell::larger(top, parts[n][r][l]);
      best[r * LANES_PER_STRIP + l] = top;
    }
}

// z = max(z, factors * dots - offset) over every panel and every row of the chunk.
template <class Cell, int TOKENS, int CHUNK>
void raise(const float* const* q, const float* panels, int64_t cells, int64_t num_panels, float* const* z) {
  constexpr int FIT = W < 16 ? 1 : TOKENS * CHUNK * 4 <= 24 ? 4 : 2;
  typename Cell::Sum best[TOKENS * CHUNK * LANES_PER_STRIP];
  for (int i = 0; i < TOKENS * CHUNK * LANES_PER_STRIP; ++i) best[i] = Cell::lowest();
  int64_t n = 0;
  for (; n + FIT <= num_panels; n += FIT)
    gate_dots<Cell, TOKENS, CHUNK, FIT>(q, panels + n * cells * STRIP, cells, best);
  for (; n < num_panels; ++n) gate_dots<Cell, TOKENS, CHUNK, 1>(q, panels + n * cells * STRIP, cells, best);
  const float* factors = panels + num_panels * cells * STRIP;
#pragma GCC unroll 8
  for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 4
    for (int l = 0; l < LANES_PER_STRIP; ++l) {
      vf top = load(z[t] + l * W);
      const vf factor = load(factors + l * W);
#pragma GCC unroll 4
      for (int h = 0; h < CHUNK; ++h) {
        const float *row = q[t] + cells * CHUNK + h, scale = row[CHUNK], offset = row[2 * CHUNK];
        top = max(top, Cell::value(best[(t * CHUNK + h) * LANES_PER_STRIP + l]) * factor * scale - offset);
      }
      store(z[t] + l * W, top);
    }
}

// Rows of gate queries: [token][chunks of [cells, and the trailer][chunk]], for tiles in chunks of 1.
struct Rows {
  const float* cells_of;
  int64_t num_rows, cells, stride;
};

template <class Cell, int CHUNK>
void raise_tokens(const Rows& rows, int64_t first_row, const int* tokens, int count, const float* panels,
                  int64_t num_panels, float* const* z) {
  constexpr int MOST = W < 16 ? (CHUNK * 2 <= MAX_ROWS ? 2 : 1) : CHUNK == 1 ? 8 : CHUNK <= 3 ? 4 : 2;
  const float* q[MOST];
  const auto at = [&](int t) { return rows.cells_of + (tokens[t] * rows.num_rows + first_row) * rows.stride; };
  int t = 0;
  for (; t + MOST <= count; t += MOST) {
    for (int i = 0; i < MOST; ++i) q[i] = at(t + i);
    raise<Cell, MOST, CHUNK>(q, panels, rows.cells, num_panels, z + t);
  }
  for (; t < count; ++t) {
    q[0] = at(t);
    raise<Cell, 1, CHUNK>(q, panels, rows.cells, num_panels, z + t);
  }
}

#if defined(TUILI_INT8_TILES)
// Sums in tiles 0 to 3, gate queries in 4, gate keys in 5.
INLINE void configure_gate(int64_t cells) {
  TileConfig config;
  for (const int tile : {0, 1, 2, 3}) config.set(tile, TILE_ROWS, 64);
  const int64_t depth = tuili::least(cells, TILE_ROWS);
  config.set(4, TILE_ROWS, depth * 4), config.set(5, depth, 64);
  configure(config);
}

// Raise `best` [16] to the dot products of 16 rows with PANELS panels.
template <int PANELS>
INLINE void gate_products(const float* q, int64_t stride, const float* panels, int64_t cells, vi* best) {
  alignas(64) float sums[PANELS][TILE_ROWS][STRIP];
  times<PANELS>([](auto n) __attribute__((always_inline)) { zero_tile<n.value>(); });
  for (int64_t i = 0; i < cells; i += TILE_ROWS) {
    load_tile<4>(q + i, stride);
    times<PANELS>([&](auto n) __attribute__((always_inline)) {
      load_tile<5>(panels + (n.value * cells + i) * STRIP, STRIP);
      add_int8_product<n.value, 4, 5>();
    });
  }
  times<PANELS>([&](auto n) __attribute__((always_inline)) { store_tile<n.value>(sums[n.value][0], STRIP); });
  for (int r = 0; r < TILE_ROWS; ++r)
    for (int n = 0; n < PANELS; ++n) {
      const vi sum = reinterpret_cast<vi>(load(sums[n][r]));
      best[r] = sum > best[r] ? sum : best[r];
    }
}

// Rows follow one another, also those of tokens that are not asked for.
template <class Cell>
void raise_all(const Rows& rows, const int* tokens, int count, const float* panels, int64_t num_panels,
               float* const* z) {
  float* of_token[MAX_TILE] = {};
  for (int i = 0; i < count; ++i) of_token[tokens[i]] = z[i];
  const vf factors = load(panels + num_panels * rows.cells * STRIP);
  const int64_t end = count ? (tokens[count - 1] + 1) * rows.num_rows : 0;
  for (int64_t first = count ? tokens[0] * rows.num_rows : 0; first < end; first += TILE_ROWS) {
    vi best[TILE_ROWS];
    for (vi& each : best) each = vi{} + INT32_MIN / 2;  // room for what is added below
    const float* q = rows.cells_of + first * rows.stride;
    int64_t n = 0;
    for (; n + 4 <= num_panels; n += 4)
      gate_products<4>(q, rows.stride, panels + n * rows.cells * STRIP, rows.cells, best);
    for (; n < num_panels; ++n)
      gate_products<1>(q, rows.stride, panels + n * rows.cells * STRIP, rows.cells, best);
    for (int64_t row = first; row < tuili::least(first + TILE_ROWS, end); ++row) {
      float* to = of_token[row / rows.num_rows];
      if (!to) continue;
      const float *trailer = rows.cells_of + row * rows.stride + rows.cells, scale = trailer[1], offset = trailer[2];
      const vf sum = Cell::value((typename Cell::Sum)(best[row - first] + *reinterpret_cast<const int32_t*>(trailer)));
      store(to, max(load(to), sum * factors * scale - offset));
    }
  }
}
#else
template <class Cell>
void raise_all(const Rows& rows, const int* tokens, int count, const float* panels, int64_t num_panels,
               float* const* z) {
  int64_t row = 0;
  for (; row + 4 <= rows.num_rows; row += 4) raise_tokens<Cell, 4>(rows, row, tokens, count, panels, num_panels, z);
  const int64_t left = rows.num_rows - row;
  if (left == 3) raise_tokens<Cell, 3>(rows, row, tokens, count, panels, num_panels, z);
  if (left == 2) raise_tokens<Cell, 2>(rows, row, tokens, count, panels, num_panels, z);
  if (left == 1) raise_tokens<Cell, 1>(rows, row, tokens, count, panels, num_panels, z);
}
#endif

#if defined(TUILI_AVX512)
#define COUNTED _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#endif

// How many of `num` keys are at least `bound`; `num` is a multiple of W.
INLINE int64_t count_from(const int32_t* keys, int64_t num, int32_t bound) {
  vi below = {};
  for (int64_t i = 0; i < num; i += W) below += load_int(keys + i) >= bound;
  int64_t count = 0;
  for (int i = 0; i < W; ++i) count -= below[i];
  return count;
}

// The bound from which on there are `wanted` keys, or the fewest above that number; `surplus` is how many more.
// `low` is at most the smallest key, OUT left out, `high` above the largest. Halves the range, and where registers can
// be compressed keeps only the keys inside it, in `room` for `num` keys and a register. Looks near the `guess` first.
inline int32_t narrow(const int32_t* keys, int64_t num, int64_t wanted, int64_t low, int64_t high, int64_t* surplus,
                      int32_t* room, int64_t guess) {
  int64_t step = int64_t{1} << 21;  // a quarter to the next power of two
  guess -= step / 2;                // too low leaves only the few keys above it, too high all below
  while (*surplus > 0 && high - low > 1) {
    const int64_t middle = W == 8 && low < guess && guess < high ? guess : low + (high - low) / 2;
    const int64_t over = count_from(keys, num, static_cast<int32_t>(middle)) - wanted;
    const bool is_upper = over >= 0;
    guess += is_upper ? step : -step, step *= 4;
    if (is_upper)
      low = middle, *surplus = over;
    else
      high = middle;
#if defined(TUILI_AVX512)
    if (!is_upper) wanted = -over;
    const __m512i from = _mm512_set1_epi32(static_cast<int32_t>(middle));
    int64_t size = 0;
    for (int64_t i = 0; i < num; i += W) {
      const __m512i here = _mm512_loadu_si512(keys + i);
      const __mmask16 is_in = is_upper ? _mm512_cmpge_epi32_mask(here, from) : _mm512_cmplt_epi32_mask(here, from);
      _mm512_storeu_si512(room + size, _mm512_maskz_compress_epi32(is_in, here));  // to memory it is slow
      size += __builtin_popcount(is_in);
    }
    keys = room, num = (size + W - 1) / W * W;
    for (int64_t i = size; i < num; ++i) room[i] = OUT;
#elif defined(TUILI_AVX2)
    if (!is_upper) wanted = -over;
    int64_t size = 0;
    for (int64_t i = 0; i < num; i += W) {
      const vi here = load_int(keys + i), is_over = here >= static_cast<int32_t>(middle);
      const uint32_t set = is_upper ? bits_of(is_over) : bits_of(is_over) ^ 0xff;
      size += compress(room + size, set, (__m256i)here);
    }
    keys = room, num = (size + W - 1) / W * W;
    for (int64_t i = size; i < num; ++i) room[i] = OUT;
#endif
  }
  return static_cast<int32_t>(low);
}

// Places of the `wanted` largest keys, ascending; of equal keys the higher places. OUT is never taken.
// `places` has room for `num` and a register. `guess` is what the least of them may be near; it gets a new one.
inline int64_t pick_best(const int32_t* keys, int64_t num, int64_t wanted, int32_t* places, int32_t* guess) {
  if (wanted <= 0) return 0;
  vi least = vi{} + INT32_MAX, most = vi{} + OUT, inside = {};
  for (int64_t i = 0; i < num; i += W) {
    const vi here = load_int(keys + i), is_in = here != OUT;
    inside += is_in;
    most = here > most ? here : most;
    least = is_in & (here < least) ? here : least;
  }
  int64_t low = INT32_MAX, high = OUT, surplus = -wanted;
  for (int i = 0; i < W; ++i) {
    low = tuili::least(low, least[i]);
    high = tuili::most(high, most[i] + int64_t{1});
    surplus -= inside[i];
  }
  const int32_t bound = narrow(keys, num, wanted, low, high, &surplus, places, *guess);
  *guess = bound;
  int64_t found = 0;
  for (int64_t i = 0; i < num; i += W) {
    uint32_t bits = bits_of(load_int(keys + i) >= bound);
#if defined(TUILI_AVX512)
    if (surplus <= 0) {
      const __m512i here = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int32_t>(i)), COUNTED);
      _mm512_storeu_si512(places + found, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), here));
      found += __builtin_popcount(bits);
      continue;
    }
#elif defined(TUILI_AVX2)
    if (surplus <= 0) {
      const __m256i here = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int32_t>(i)),
                                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
      found += compress(places + found, bits, here);
      continue;
    }
#endif
    for (; bits; bits &= bits - 1) {
      const int32_t place = static_cast<int32_t>(i) + __builtin_ctz(bits);
      if (surplus > 0 && keys[place] == bound)
        --surplus;
      else
        places[found++] = place;
    }
  }
  return found;
}

#if defined(TUILI_AVX512)
// 16 numbers of a row of `width`, 0 past its end.
INLINE vf sixteen_floats(const void* row, int64_t begin, bool is_bf16, int64_t width) {
  const __mmask16 there = static_cast<__mmask16>(first_bytes(width - begin));
  if (!is_bf16) return (vf)_mm512_maskz_loadu_ps(there, static_cast<const float*>(row) + begin);
  const __m256i half = _mm256_maskz_loadu_epi16(there, static_cast<const uint16_t*>(row) + begin);
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
}

// Round a gate query of `width` numbers to int8, four to a cell, into cells `step` apart, and set `sum` to what they add
// up to. Returns the factor, 0 for a query that is not finite or too small.
INLINE float round_query(const void* row, bool is_bf16, int64_t width, int64_t cells, int64_t step, float* to,
                         int32_t* sum) {
  vf most = {};
  bool is_finite = true;
  for (int64_t i = 0; i < width; i += W) {
    const vf x = sixteen_floats(row, i, is_bf16, width), size = max(x, -x);
    is_finite &= _mm512_cmp_ps_mask((__m512)size, _mm512_set1_ps(__FLT_MAX__), _CMP_LE_OQ) == 0xffff;
    most = max(size, most);
  }
  const float top = largest(most), steps = is_finite && top > 0 ? 127.0f / top : 0.0f;
  const bool is_zero = !(steps > 0 && steps <= __FLT_MAX__);
  __m512i all = _mm512_setzero_si512();
  for (int64_t i = 0; i < cells; i += 4) {
    const vf x = is_zero ? vf{} : sixteen_floats(row, 4 * i, is_bf16, width) * steps;
    const __m512i rounded = _mm512_cvtps_epi32((__m512)x);
    all = _mm512_add_epi32(all, rounded);
    alignas(16) float fours[4];
    _mm_store_si128(reinterpret_cast<__m128i*>(fours), _mm512_cvtepi32_epi8(rounded));
    for (int j = 0; j < 4; ++j) to[(i + j) * step] = fours[j];
  }
  *sum = _mm512_reduce_add_epi32(all);
  return is_zero ? 0.0f : top / 127.0f;
}
#endif

template <class Cell>
struct Selection {
  const DsaProblem& p;
  const Sizes& z;
  const Shared& shared;
  const Place& place;
  const Scratch& s;

  int64_t num = 0, first = 0;       // tokens; first candidate of the row
  int64_t ends[MAX_TILE] = {};      // the candidates of a token end before this block
  int64_t num_open[MAX_TILE] = {};  // groups of 16 blocks that a token opens
  int32_t guess = 0, coarse_guess = 0;  // the last token's least key taken: the next one's is near

  int32_t* open(int64_t t) const { return s.open + t * z.most_open; }
  float* scores(int64_t t) const { return s.masses + t * z.most_open * STRIP; }
  float* coarse(int64_t t) const { return s.coarse + t * z.gate_panels * STRIP; }
  int64_t num_groups(int64_t t) const { return ends[t] > first ? (ends[t] - 1) / STRIP - first / STRIP + 1 : 0; }
  int64_t head() const { return place.row * p.groups + place.group; }
  Rows rows() const { return {s.gate_q, p.gate_queries, z.gate_cells, z.gate_row}; }

  void run() {
    num = place.last - place.first;
    first = tuili::first_key(p, place.row) / p.block + p.sink;
    for (int64_t t = 0; t < num; ++t)
      for (int64_t r = 0; r < p.gate_queries; ++r)
        fetch_row(p.gate_q, gate_query_begin(t, r), p.gate_is_bf16, p.gate_dim);
    for (int64_t t = 0; t < num; ++t) {
      const int64_t position = z.offset + place.first + t;
      const bool has_candidates = z.free > 0 && position >= tuili::first_key(p, place.row);
      ends[t] = has_candidates ? position / p.block - p.local + 1 : 0;
      for (int64_t r = 0; r < p.gate_queries; ++r) load_gate_query(t, r);
    }
#if defined(TUILI_INT8_TILES)
    configure_gate(z.gate_cells);
#endif
    score_means();
    for (int64_t t = 0; t < num; ++t) open_best(t);
    score_open();
#if defined(TUILI_INT8_TILES)
    release();
#endif
    for (int64_t t = 0; t < num; ++t) keep(t);
  }

  int64_t gate_query_begin(int64_t t, int64_t r) const {
    return place.row * p.gate_q_stride[0] + (place.first + t) * p.gate_q_stride[1] +
           place.group * p.gate_q_stride[2] + r * p.gate_q_stride[3];
  }

  // What is taken off the scores of a gate query: given, or the mean of what its heads spend on the keys always kept.
  float offset_of(int64_t t, int64_t r) const {
    const int64_t token = (place.row * p.queries + place.first + t) * p.groups + place.group;
    if (p.offset) return p.offset[token * p.gate_queries + r];
    if (!p.normalizes) return 0.0f;
    float sum = 0.0f;
    int num_heads = 0;
    for (int64_t h = 0; h < p.heads_per_group; ++h)
      if (h * p.gate_queries / p.heads_per_group == r) sum += s.offsets[t * p.heads_per_group + h], ++num_heads;
    return num_heads ? sum / num_heads : 0.0f;
  }

  // A gate query in int8 into cells `chunk` apart; what is not finite becomes 0.
  void load_int8(int64_t begin, int64_t chunk, float* to) const {
    const char* row = static_cast<const char*>(p.gate_q) + begin * (p.gate_is_bf16 ? 2 : 4);
    float &below = to[z.gate_cells * chunk], &factor = to[(z.gate_cells + 1) * chunk];
#if defined(TUILI_AVX512)
    if constexpr (Cell::PER_CELL == 4) {
      int32_t sum;
      factor = round_query(row, p.gate_is_bf16, p.gate_dim, z.gate_cells, chunk, to, &sum);
      below = cell(static_cast<uint32_t>(-128 * sum));
      return;
    }
#elif defined(TUILI_AVX2)
    if constexpr (Cell::PER_CELL == 2) {
      factor = round_query(row, p.gate_is_bf16, p.gate_dim, z.gate_cells, chunk, to);
      return;
    }
#endif
    float most = 0.0f;
    bool is_finite = true;
    for (int64_t i = 0; i < p.gate_dim; ++i) {
      const float size = __builtin_fabsf(read(row, i, p.gate_is_bf16));
      is_finite &= size <= __FLT_MAX__;
      most = size > most ? size : most;
    }
    const float steps = is_finite && most > 0 ? 127.0f / most : 0.0f;
    const bool is_zero = !(steps > 0 && steps <= __FLT_MAX__);  // too small a query is 0 as well
    for (int64_t i = 0; i < z.gate_cells; ++i)
      to[i * chunk] = i < p.gate_dim && !is_zero ? __builtin_rintf(read(row, i, p.gate_is_bf16) * steps) : 0.0f;
    factor = is_zero ? 0.0f : most / 127.0f;
  }

  // Rows of a chunk lie side by side.
  void load_gate_query(int64_t t, int64_t r) {
#if defined(TUILI_INT8_TILES)
    constexpr int64_t MOST = 1;
#else
    constexpr int64_t MOST = MAX_CHUNK;
#endif
    const int64_t whole = p.gate_queries / MOST * MOST;
    const int64_t chunk = r < whole ? MOST : p.gate_queries - whole;
    const int64_t row = t * p.gate_queries + (r < whole ? r / MOST * MOST : whole), lane = r % MOST;
    const int64_t begin = gate_query_begin(t, r);
    float *to = s.gate_q + row * z.gate_row + lane, *trailer = to + z.gate_cells * chunk;
    const float offset = offset_of(t, r);
    trailer[0] = 0.0f, trailer[chunk] = 1.0f, trailer[2 * chunk] = offset;
    if (p.gate_is_int8)
      load_int8(begin, chunk, to);
    else
      spread<Cell>(p.gate_q, begin, p.gate_is_bf16, p.gate_dim, z.gate_cells, to, chunk);
  }

  // Score all candidates of the tokens that have more groups than they may open, by mean gate keys.
  void score_means() {
    int many[MAX_TILE], num_many = 0;
    int64_t end = 0;
    for (int t = 0; t < num; ++t)
      if (num_groups(t) > z.most_open) many[num_many++] = t, end = tuili::most(end, ends[t]);
    for (int i = 0; i < num_many; ++i)
      for (int64_t at = 0; at < end; ++at) coarse(many[i])[at] = NONE;
    for (int64_t at = first / STRIP; at * STRIP < end; ++at) {
      int tokens[MAX_TILE], count = 0;
      float* to[MAX_TILE];
      for (int i = 0; i < num_many; ++i)
        if (at * STRIP < ends[many[i]]) tokens[count] = many[i], to[count++] = coarse(many[i]) + at * STRIP;
      const float* panel = s.gate_strip;
      if (z.packs_gate)
        panel = shared.mean_panels + (head() * z.gate_panels + at) * z.mean_panel;
      else
        pack_means<Cell>(p, z, place.row, place.group, at, s.gate_strip);
      raise_all<Cell>(rows(), tokens, count, panel, 1, to);
    }
  }

  // Open all groups that hold candidates, or those with the best ones by mean gate keys.
  void open_best(int64_t t) {
    num_open[t] = 0;
    const int64_t begin = first / STRIP, count = num_groups(t);
    if (count <= z.most_open) {
      for (int64_t at = begin; at < begin + count; ++at) open(t)[num_open[t]++] = static_cast<int32_t>(at);
      return;
    }
    const int64_t size = tuili::up(ends[t], STRIP), width = tuili::up(begin + count, W);
    weigh(t, coarse(t), size, [](int64_t block) { return block; });
    rank(coarse(t), size);
    for (int64_t i = 0; i < first; ++i) s.order[i] = OUT;
    for (int64_t i = ends[t]; i < size; ++i) s.order[i] = OUT;
    for (int64_t at = 0; at < width; ++at) {
      int32_t best = OUT;
      for (int64_t i = at * STRIP; at >= begin && i < tuili::least(size, (at + 1) * STRIP); ++i)
        best = s.order[i] > best ? s.order[i] : best;
      s.order[at] = best;  // a group lies behind the place of its rank, so none is overwritten before it is read
    }
    num_open[t] = pick_best(s.order, width, z.most_open, s.places, &coarse_guess);
    __builtin_memcpy(open(t), s.places, sizeof(int32_t) * num_open[t]);
  }

  // Score what is open, group by group, for all tokens that opened it.
  void score_open() {
    int64_t next[MAX_TILE] = {};
    for (int64_t t = 0; t < num; ++t)
      for (int64_t i = 0; i < num_open[t] * STRIP; ++i) scores(t)[i] = NONE;
    for (;;) {
      int64_t at = INT64_MAX;
      for (int64_t t = 0; t < num; ++t)
        if (next[t] < num_open[t]) at = tuili::least(at, open(t)[next[t]]);
      if (at == INT64_MAX) return;
      int tokens[MAX_TILE], count = 0;
      float* to[MAX_TILE];
      for (int t = 0; t < num; ++t)
        if (next[t] < num_open[t] && open(t)[next[t]] == at)
          tokens[count] = t, to[count++] = scores(t) + next[t]++ * STRIP;
      const float* panels = s.gate_strip;
      if (z.packs_gate) {
        panels = shared.gate_panels + (head() * z.gate_panels + at) * z.gate_panel;
        if (at + 1 < z.gate_panels) fetch(panels + z.gate_panel, z.gate_panel * 4);
      } else {
        pack_gate<Cell>(p, z, place.row, place.group, at, s.gate_strip);
      }
      raise_all<Cell>(rows(), tokens, count, panels, z.subs_per_block, to);
    }
  }

  // Scores become what the rule orders by: the score itself, with a prior the log mass. `find` tells the place of a
  // block, or -1.
  template <class Find>
  void weigh(int64_t t, float* values, int64_t size, Find find) {
    const float bias = p.bias ? p.bias[place.group] : 0.0f;
    for (int64_t i = 0; i < size; i += W) store(values + i, load(values + i) + bias);
    if (!p.prior) return;
    for (int64_t i = 0; i < size; i += W) store(values + i, log_sigmoid(load(values + i)));
    const int32_t* prior = p.prior + place.row * p.prior_stride[0] + (place.first + t) * p.prior_stride[1] +
                           place.group * p.prior_stride[2];
    for (int64_t i = 0; i < p.prior_size; ++i) {
      const int64_t at = prior[i] < 0 || prior[i] >= z.whole_blocks ? -1 : find(prior[i]);
      s.places[i] = static_cast<int32_t>(at);
      s.saved[i] = at >= 0 && at < size ? values[at] : 0.0f;
    }
    const float penalty = static_cast<float>(p.penalty);
    for (int64_t i = 0; i < size; i += W) store(values + i, load(values + i) - penalty);
    for (int64_t i = 0; i < p.prior_size; ++i)
      if (s.places[i] >= 0 && s.places[i] < size) values[s.places[i]] = s.saved[i];
  }

  void rank(const float* values, int64_t size) const {
    for (int64_t i = 0; i < size; i += W)
      store(reinterpret_cast<float*>(s.order + i), reinterpret_cast<vf>(ordered(load(values + i))));
  }

  // The place of a block among those a token opened, or -1.
  int64_t place_of(int64_t t, int64_t block) const {
    int64_t low = 0, high = num_open[t];
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (open(t)[middle] * STRIP + STRIP <= block)
        low = middle + 1;
      else
        high = middle;
    }
    return low < num_open[t] && open(t)[low] == block / STRIP ? low * STRIP + block % STRIP : -1;
  }

  void keep(int64_t t) {
    const int64_t size = num_open[t] * STRIP;
    int64_t found = 0;
    if (size) {
      weigh(t, scores(t), size, [&](int64_t block) { return place_of(t, block); });
      rank(scores(t), size);
      for (int64_t i = 0; i < STRIP; ++i) {
        if (open(t)[0] * STRIP + i < first) s.order[i] = OUT;
        if (open(t)[num_open[t] - 1] * STRIP + i >= ends[t]) s.order[size - STRIP + i] = OUT;
      }
      found = pick_best(s.order, size, z.free, s.places, &guess);
      if (p.coverage > 0) found = cover(scores(t), size, found);
    }
    write(t, found);
  }

  // Keep the best of the found places until they hold the share `coverage` of all mass.
  int64_t cover(float* values, int64_t size, int64_t found) const {
    if (!p.prior)
      for (int64_t i = 0; i < size; i += W) store(values + i, log_sigmoid(load(values + i)));
    float top = NONE;
    for (int64_t i = 0; i < size; ++i)
      if (s.order[i] != OUT && values[i] > top) top = values[i];
    for (int64_t i = 0; i < size; i += W) store(values + i, exp2((load(values + i) - top) * 1.44269504f));
    double all = 0, reached = 0;
    for (int64_t i = 0; i < size; ++i)
      if (s.order[i] != OUT) all += values[i];
    sort(s.places, found, [&](int32_t a, int32_t b) {
      return s.order[a] != s.order[b] ? s.order[a] > s.order[b] : a > b;
    });
    int64_t count = 0;
    while (count < found && reached < p.coverage * all) reached += values[s.places[count++]];
    sort(s.places, count, [](int32_t a, int32_t b) { return a < b; });
    return count;
  }

  // Insertion, for a few dozen entries.
  template <class Before>
  static void sort(int32_t* entries, int64_t size, Before before) {
    for (int64_t i = 1; i < size; ++i) {
      const int32_t entry = entries[i];
      int64_t at = i;
      for (; at > 0 && before(entry, entries[at - 1]); --at) entries[at] = entries[at - 1];
      entries[at] = entry;
    }
  }

  // Sink blocks, what was found, local blocks: ascending by itself.
  void write(int64_t t, int64_t found) const {
    const int64_t position = z.offset + place.first + t, here = position / p.block;
    int32_t* to = s.picked + t * p.keep;
    int64_t size = 0;
    if (position >= tuili::first_key(p, place.row)) {
      for (int64_t block = first - p.sink; block < first && block <= here; ++block)
        to[size++] = static_cast<int32_t>(block);
      for (int64_t i = 0; i < found; ++i) {
        const uint32_t at = static_cast<uint32_t>(s.places[i]);
        to[size++] = open(t)[at / STRIP] * STRIP + static_cast<int32_t>(at % STRIP);
      }
      for (int64_t block = tuili::most(first, here - p.local + 1); block <= here; ++block)
        to[size++] = static_cast<int32_t>(block);
    }
    s.num_picked[t] = static_cast<int32_t>(size);
    if (!p.blocks) return;
    int32_t* out = p.blocks + ((place.row * p.queries + place.first + t) * p.groups + place.group) * p.keep;
    for (int64_t i = 0; i < p.keep; ++i) out[i] = i < size ? to[i] : -1;
  }
};

template <class Cell>
void select(const DsaProblem& p, const Sizes& z, const Shared& shared, const Place& place, const Scratch& s) {
  Selection<Cell> selection{p, z, shared, place, s};
  selection.run();
}

}  // namespace
