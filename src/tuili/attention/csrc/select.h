// Selection for a tile of query tokens: the rule of tuili.attention.select, fused.
//
// Gate keys lie in groups of 16 neighbouring blocks, side by side, one panel for each sub-block of a block; so the
// maximum over sub-blocks and gate queries runs down registers. A token opens some groups (flat: all that hold
// candidates, tree: those of its best spans), has a score for each of their blocks, and keeps the best.
#pragma once
#include "attend.h"

namespace {

constexpr int32_t OUT = INT32_MIN;  // the key of what is no candidate

INLINE vi ordered(vf x) {  // integers in the order of floats; both zeros are one
  const vi bits = reinterpret_cast<vi>(x + 0.0f);
  return bits ^ ((bits >> 31) & 0x7fffffff);
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

// Sub-block panels of a group of 16 blocks: keys as [subs][cells][16].
template <class Cell>
void pack_gate(const DsaProblem& p, const Sizes& z, int64_t row, int64_t group, int64_t panel, float* out) {
  const int64_t num_subs = (p.keys + p.sub - 1) / p.sub;
  for (int64_t lane = 0; lane < STRIP; ++lane)
    for (int64_t i = 0; i < z.subs_per_block; ++i) {
      const int64_t at = (panel * STRIP + lane) * z.subs_per_block + i;
      const int64_t begin = row * p.gate_k_stride[0] + at * p.gate_k_stride[1] + group * p.gate_k_stride[2];
      spread<Cell>(at < num_subs ? p.gate_k : nullptr, begin, p.gate_is_bf16, p.gate_dim, z.gate_cells,
                   out + i * z.gate_cells * STRIP + lane, STRIP);
    }
}

template <class Cell, int TOKENS, int CHUNK, int PANELS>
INLINE void gate_dots(const float* const* q, const float* panels, int64_t cells, float* const* z) {
  vf parts[PANELS][TOKENS * CHUNK][LANES_PER_STRIP] = {};
  for (int64_t i = 0; i < cells; ++i) {
    vf keys[PANELS][LANES_PER_STRIP];
#pragma GCC unroll 4
    for (int n = 0; n < PANELS; ++n)
#pragma GCC unroll 4
      for (int l = 0; l < LANES_PER_STRIP; ++l) keys[n][l] = load(panels + (n * cells + i) * STRIP + l * W);
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 4
      for (int h = 0; h < CHUNK; ++h)
#pragma GCC unroll 4
        for (int n = 0; n < PANELS; ++n)
#pragma GCC unroll 4
          for (int l = 0; l < LANES_PER_STRIP; ++l) {
            vf& sum = parts[n][t * CHUNK + h][l];
            sum = Cell::multiply_add(sum, q[t] + i * CHUNK + h, keys[n][l]);
          }
  }
#pragma GCC unroll 8
  for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 4
    for (int l = 0; l < LANES_PER_STRIP; ++l) {
      vf best = load(z[t] + l * W);
#pragma GCC unroll 4
      for (int h = 0; h < CHUNK; ++h)
#pragma GCC unroll 4
        for (int n = 0; n < PANELS; ++n) best = max(best, parts[n][t * CHUNK + h][l]);
      store(z[t] + l * W, best);
    }
}

// z = max(z, dots with every panel and every row of the chunk).
template <class Cell, int TOKENS, int CHUNK>
void raise(const float* const* q, const float* panels, int64_t cells, int64_t num_panels, float* const* z) {
  constexpr int FIT = W < 16 ? 1 : TOKENS * CHUNK * 4 <= 24 ? 4 : 2;
  int64_t n = 0;
  for (; n + FIT <= num_panels; n += FIT)
    gate_dots<Cell, TOKENS, CHUNK, FIT>(q, panels + n * cells * STRIP, cells, z);
  for (; n < num_panels; ++n) gate_dots<Cell, TOKENS, CHUNK, 1>(q, panels + n * cells * STRIP, cells, z);
}

// Rows of gate queries: [token][chunks of [cells][chunk]].
struct Rows {
  const float* cells_of;
  int64_t num_rows, cells;
};

template <class Cell, int CHUNK>
void raise_tokens(const Rows& rows, int64_t first_row, const int* tokens, int count, const float* panels,
                  int64_t num_panels, float* const* z) {
  constexpr int MOST = W < 16 ? (CHUNK * 2 <= MAX_ROWS ? 2 : 1) : CHUNK == 1 ? 8 : CHUNK <= 3 ? 4 : 2;
  const float* q[MOST];
  const auto at = [&](int t) { return rows.cells_of + (tokens[t] * rows.num_rows + first_row) * rows.cells; };
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

// How many of `num` keys are at least `bound`; `num` is a multiple of W.
INLINE int64_t count_from(const int32_t* keys, int64_t num, int32_t bound) {
  vi below = {};
  for (int64_t i = 0; i < num; i += W) below += load_int(keys + i) >= bound;
  int64_t count = 0;
  for (int i = 0; i < W; ++i) count -= below[i];
  return count;
}

// Places of the `wanted` largest keys, ascending; of equal keys the higher places. OUT is never taken.
inline int64_t pick_best(const int32_t* keys, int64_t num, int64_t wanted, int32_t* places) {
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
  while (surplus > 0 && high - low > 1) {  // at least `wanted` keys from `low` on, fewer from `high` on
    const int64_t middle = low + (high - low) / 2;
    const int64_t over = count_from(keys, num, static_cast<int32_t>(middle)) - wanted;
    if (over >= 0)
      low = middle, surplus = over;
    else
      high = middle;
  }
  int64_t found = 0;
  const int32_t bound = static_cast<int32_t>(low);
  for (int64_t i = 0; i < num; i += W) {
    const vi here = load_int(keys + i);
    uint32_t bits = bits_of(here >= bound);
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

template <class Cell>
struct Selection {
  const DsaProblem& p;
  const Sizes& z;
  const Shared& shared;
  const Place& place;
  const Scratch& s;

  int64_t num = 0, first = 0;        // tokens; first candidate of the row
  int64_t ends[MAX_TILE] = {};      // the candidates of a token end before this block
  int64_t num_open[MAX_TILE] = {};  // groups of 16 blocks that a token opens

  int32_t* open(int64_t t) const { return s.open + t * z.most_open; }
  float* scores(int64_t t) const { return s.masses + t * z.most_open * STRIP; }

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
    if (z.spans)
      open_best_spans();
    else
      open_all();
    score_open();
    for (int64_t t = 0; t < num; ++t) keep(t);
  }

  int64_t gate_query_begin(int64_t t, int64_t r) const {
    return place.row * p.gate_q_stride[0] + (place.first + t) * p.gate_q_stride[1] +
           place.group * p.gate_q_stride[2] + r * p.gate_q_stride[3];
  }

  // Rows of a chunk lie side by side; for the tree also their positive, then their negative parts.
  void load_gate_query(int64_t t, int64_t r) {
    const int64_t whole = p.gate_queries / MAX_CHUNK * MAX_CHUNK;
    const int64_t chunk = r < whole ? MAX_CHUNK : p.gate_queries - whole;
    const int64_t row = t * p.gate_queries + (r < whole ? r / MAX_CHUNK * MAX_CHUNK : whole), lane = r % MAX_CHUNK;
    const int64_t begin = gate_query_begin(t, r);
    float* to = s.gate_q + row * z.gate_cells + lane;
    spread<Cell>(p.gate_q, begin, p.gate_is_bf16, p.gate_dim, z.gate_cells, to, chunk);
    if (!z.spans) return;
    float* above = s.signs + row * 2 * z.gate_width + lane;
    float* below = above + z.gate_width * chunk;
    for (int64_t i = 0; i < z.gate_width; ++i) {
      const float x = i < p.gate_dim ? read(p.gate_q, begin + i, p.gate_is_bf16) : 0.0f;
      above[i * chunk] = x > 0 ? x : 0.0f;
      below[i * chunk] = x < 0 ? x : 0.0f;
    }
  }

  void open_all() {
    for (int64_t t = 0; t < num; ++t) {
      num_open[t] = 0;
      for (int64_t at = first / STRIP; at * STRIP < ends[t]; ++at) open(t)[num_open[t]++] = static_cast<int32_t>(at);
    }
  }

  void open_best_spans() {
    const int64_t width = tuili::up(z.spans, STRIP), depth = 2 * z.gate_width;
    const float* panels = shared.span_panels + (place.row * p.groups + place.group) * width * depth;
    for (int64_t i = 0; i < num * width; ++i) s.spans[i] = NONE;
    for (int64_t begin = first / p.fan / STRIP * STRIP; begin < z.spans; begin += STRIP) {
      int tokens[MAX_TILE], count = 0;
      float* to[MAX_TILE];
      for (int t = 0; t < num; ++t)
        if (ends[t] > begin * p.fan) tokens[count] = t, to[count++] = s.spans + t * width + begin;
      raise_all<Single>({s.signs, p.gate_queries, depth}, tokens, count, panels + begin * depth, 1, to);
    }
    for (int64_t t = 0; t < num; ++t) open_spans_of(t, s.spans + t * width);
  }

  // The span in which the candidates end is opened whatever its bound.
  void open_spans_of(int64_t t, float* bounds) {
    num_open[t] = 0;
    if (ends[t] <= first) return;
    const int64_t begin = first / p.fan, end = (ends[t] + p.fan - 1) / p.fan, width = tuili::up(end, STRIP);
    weigh(t, bounds, width, p.fan, [](int64_t span) { return span; });
    if (ends[t] % p.fan) bounds[end - 1] = -NONE;
    rank(bounds, width);
    for (int64_t i = 0; i < begin; ++i) s.order[i] = OUT;
    for (int64_t i = end; i < width; ++i) s.order[i] = OUT;
    const int64_t found = pick_best(s.order, width, p.beam, s.places), groups = p.fan / STRIP;
    for (int64_t i = 0; i < found; ++i)
      for (int64_t at = s.places[i] * groups; at < (s.places[i] + 1) * groups; ++at)
        if ((at + 1) * STRIP > first && at * STRIP < ends[t]) open(t)[num_open[t]++] = static_cast<int32_t>(at);
  }

  // Score what is open, group by group, for all tokens that opened it.
  void score_open() {
    const Rows rows{s.gate_q, p.gate_queries, z.gate_cells};
    const int64_t size = z.subs_per_block * z.gate_cells * STRIP, head = place.row * p.groups + place.group;
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
        panels = shared.gate_panels + (head * z.gate_panels + at) * size;
        if (at + 1 < z.gate_panels) fetch(panels + size, size * 4);
      } else {
        pack_gate<Cell>(p, z, place.row, place.group, at, s.gate_strip);
      }
      raise_all<Cell>(rows, tokens, count, panels, z.subs_per_block, to);
    }
  }

  // Scores become what the rule orders by: the score itself, with a prior the log mass. `unit` blocks are one entry,
  // `find` tells the place of an entry, or -1.
  template <class Find>
  void weigh(int64_t t, float* values, int64_t size, int64_t unit, Find find) {
    const float bias = p.bias ? p.bias[place.group] : 0.0f;
    for (int64_t i = 0; i < size; i += W) store(values + i, load(values + i) + bias);
    if (!p.prior) return;
    for (int64_t i = 0; i < size; i += W) store(values + i, log_sigmoid(load(values + i)));
    const int32_t* prior = p.prior + place.row * p.prior_stride[0] + (place.first + t) * p.prior_stride[1] +
                           place.group * p.prior_stride[2];
    for (int64_t i = 0; i < p.prior_size; ++i) {
      const int64_t at = prior[i] < 0 || prior[i] >= z.whole_blocks ? -1 : find(prior[i] / unit);
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
      weigh(t, scores(t), size, 1, [&](int64_t block) { return place_of(t, block); });
      rank(scores(t), size);
      for (int64_t i = 0; i < STRIP; ++i) {
        if (open(t)[0] * STRIP + i < first) s.order[i] = OUT;
        if (open(t)[num_open[t] - 1] * STRIP + i >= ends[t]) s.order[size - STRIP + i] = OUT;
      }
      found = pick_best(s.order, size, z.free, s.places);
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
      for (int64_t i = 0; i < found; ++i)
        to[size++] = open(t)[s.places[i] / STRIP] * static_cast<int32_t>(STRIP) + s.places[i] % STRIP;
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

// Upper and lower bounds of the gate keys of 16 spans, [width] upper then [width] lower; sink and padding left out.
inline void pack_spans(const DsaProblem& p, const Sizes& z, int64_t row, int64_t group, int64_t begin, float* out) {
  const int64_t first = tuili::first_key(p, row) / p.block + p.sink;
  for (int64_t lane = 0; lane < STRIP; ++lane) {
    const int64_t from = tuili::most((begin + lane) * p.fan, first);
    const int64_t to = tuili::least((begin + lane + 1) * p.fan, z.whole_blocks);
    for (int64_t i = 0; i < z.gate_width; ++i) {
      float upper = from < to && i < p.gate_dim ? NONE : 0.0f, lower = -upper;
      for (int64_t at = from * z.subs_per_block; i < p.gate_dim && at < to * z.subs_per_block; ++at) {
        const int64_t index = row * p.gate_k_stride[0] + at * p.gate_k_stride[1] + group * p.gate_k_stride[2] + i;
        const float x = read(p.gate_k, index, p.gate_is_bf16);
        upper = x > upper ? x : upper;
        lower = x < lower ? x : lower;
      }
      out[i * STRIP + lane] = upper;
      out[(z.gate_width + i) * STRIP + lane] = lower;
    }
  }
}

}  // namespace
