// The gradient of attention over given blocks, in float32.
//
// For a tile of query tokens, strip by strip over the union of their blocks, so that a strip is loaded once for all
// tokens that read it: scores and the output gradient's products with the values first, then each token's softmax,
// then what flows into queries, keys, values and the log-gate of a block. Nothing is kept from the forward pass.
#pragma once
#include "simd.h"

namespace {

using tuili::BackScratch;
using tuili::STRIP;

constexpr int BACK_ROWS = 4;  // heads worked on together

// out[r][16] = rows[r] . panel[.][16], R rows `step` apart.
template <int R>
INLINE void dots(const float* rows, int64_t step, const float* panel, int64_t dim, float* out) {
  vf sums[R][LANES_PER_STRIP];
  for (int r = 0; r < R; ++r)
    for (int l = 0; l < LANES_PER_STRIP; ++l) sums[r][l] = vf{};
  for (int64_t i = 0; i < dim; ++i)
    for (int l = 0; l < LANES_PER_STRIP; ++l) {
      const vf keys = load(panel + i * STRIP + l * W);
      for (int r = 0; r < R; ++r) sums[r][l] += rows[r * step + i] * keys;
    }
  for (int r = 0; r < R; ++r)
    for (int l = 0; l < LANES_PER_STRIP; ++l) store(out + r * STRIP + l * W, sums[r][l]);
}

// to[r] += sum over `here` keys of weights[r][key] * keys[key].
template <int R, int V>
INLINE void gather(const float* weights, const float* keys, int64_t here, int64_t dim, float* to, int64_t step) {
  for (int64_t i = 0; i < dim; i += V * W) {
    vf sums[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) sums[r][v] = load(to + r * step + i + v * W);
    for (int64_t key = 0; key < here; ++key)
      for (int v = 0; v < V; ++v) {
        const vf x = load(keys + key * dim + i + v * W);
        for (int r = 0; r < R; ++r) sums[r][v] += weights[r * STRIP + key] * x;
      }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) store(to + r * step + i + v * W, sums[r][v]);
  }
}

// to[key] += sum over the rows of weights[r][key] * rows[r], for `here` keys.
template <int R, int V>
INLINE void scatter(const float* weights, const float* rows, int64_t step, int64_t here, int64_t dim, float* to) {
  for (int64_t i = 0; i < dim; i += V * W) {
    vf x[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) x[r][v] = load(rows + r * step + i + v * W);
    for (int64_t key = 0; key < here; ++key)
      for (int v = 0; v < V; ++v) {
        float* at = to + key * dim + i + v * W;
        vf sum = load(at);
        for (int r = 0; r < R; ++r) sum += weights[r * STRIP + key] * x[r][v];
        store(at, sum);
      }
  }
}

struct Entry {
  int64_t strip, token, slot;
};

// One task's place: head pair, and tokens.
struct Back {
  const DsaBackward& p;
  const BackScratch& s;
  int64_t head, first, last;       // batch row and group; query tokens first <= t < last
  float *grad_k, *grad_v;          // of this head pair and part
  int64_t spb, slots, rows;        // strips a block, slots a token, heads a group

  const float* q(int64_t t) const { return p.q + (head * rows * p.queries + t) * p.dim; }
  const float* grad_out(int64_t t) const { return p.grad_out + (head * rows * p.queries + t) * p.dim; }
  float* grad_q(int64_t t) const { return p.grad_q + (head * rows * p.queries + t) * p.dim; }
  const int32_t* picked(int64_t t) const {
    return p.blocks + ((head / p.groups * p.queries + t) * p.groups + head % p.groups) * p.keep;
  }
  float* at(float* base, int64_t token, int64_t slot) const {
    return base + ((token - first) * slots + slot) * rows * STRIP;
  }
  const float* panel(int64_t strip) const {
    return p.packed + (head * ((p.keys + STRIP - 1) / STRIP) + strip) * 2 * p.dim * STRIP;
  }
};

// List which token reads which strip, by strip; return how many there are.
INLINE int64_t list(const Back& b, Entry* entries, int64_t* next) {
  const int64_t count = b.last - b.first;
  for (int64_t t = 0; t < count; ++t) next[t] = 0;
  const auto strip_of = [&](int64_t t) {
    const int64_t slot = next[t];
    if (slot >= b.slots) return INT64_MAX;
    const int32_t block = b.picked(b.first + t)[slot / b.spb];
    const int64_t strip = block * b.spb + slot % b.spb;
    return block < 0 || strip * STRIP >= b.p.keys ? INT64_MAX : strip;
  };
  int64_t size = 0;
  for (;;) {
    int64_t lowest = INT64_MAX;
    for (int64_t t = 0; t < count; ++t) lowest = tuili::least(lowest, strip_of(t));
    if (lowest == INT64_MAX) return size;
    for (int64_t t = 0; t < count; ++t)
      if (strip_of(t) == lowest) entries[size++] = {lowest, b.first + t, next[t]++};
  }
}

// Turn scores into softmax weights and products into gradients of the scores, for one token and head.
INLINE void soften(const Back& b, int64_t token, int64_t row, const Entry* entries, const int64_t* mine, int64_t count) {
  const int64_t position = b.p.keys - b.p.queries + token;
  const float factor = static_cast<float>(b.p.scale * 1.4426950408889634);
  float highest = -__builtin_inff();
  for (int64_t i = 0; i < count; ++i) {
    const Entry& entry = entries[mine[i]];
    float* scores = b.at(b.s.scores, token, entry.slot) + row * STRIP;
    for (int64_t j = 0; j < STRIP; ++j)
      if (entry.strip * STRIP + j > position) scores[j] = -__builtin_inff();
    for (int l = 0; l < LANES_PER_STRIP; ++l) {
      const float top = largest(load(scores + l * W));
      highest = top > highest ? top : highest;
    }
  }
  vf sum{}, dot{};
  for (int64_t i = 0; i < count; ++i) {
    float* scores = b.at(b.s.scores, token, entries[mine[i]].slot) + row * STRIP;
    const float* products = b.at(b.s.products, token, entries[mine[i]].slot) + row * STRIP;
    for (int l = 0; l < LANES_PER_STRIP; ++l) {
      const vf raw = load(scores + l * W);
      const vf x = raw > splat(-__builtin_inff()) ? exp2((raw - highest) * factor) : vf{};
      store(scores + l * W, x);
      sum += x, dot += x * load(products + l * W);
    }
  }
  const float whole = total(sum), inverse = whole > 0 ? 1 / whole : 0, mean = total(dot) * inverse;
  const float scale = static_cast<float>(b.p.scale);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t slot = entries[mine[i]].slot;
    float* weights = b.at(b.s.scores, token, slot) + row * STRIP;
    float* products = b.at(b.s.products, token, slot) + row * STRIP;
    vf of_block{};
    for (int l = 0; l < LANES_PER_STRIP; ++l) {
      const vf weight = load(weights + l * W) * inverse, grad = weight * (load(products + l * W) - mean);
      of_block += grad;
      store(weights + l * W, weight), store(products + l * W, grad * scale);
    }
    if (b.p.grad_gate)
      b.p.grad_gate[((b.head / b.p.groups * b.p.queries + token) * b.p.groups + b.head % b.p.groups) * b.p.keep +
                    slot / b.spb] += total(of_block);
  }
}

template <int R>
INLINE void measure(const Back& b, const Entry& entry, int64_t row) {
  const int64_t step = b.p.queries * b.p.dim, shift = row * STRIP;
  const float* panel = b.panel(entry.strip);
  dots<R>(b.q(entry.token) + row * step, step, panel, b.p.dim, b.at(b.s.scores, entry.token, entry.slot) + shift);
  dots<R>(b.grad_out(entry.token) + row * step, step, panel + b.p.dim * STRIP, b.p.dim,
          b.at(b.s.products, entry.token, entry.slot) + shift);
}

template <int R, int V>
INLINE void spread_out(const Back& b, const Entry& entry, int64_t row) {
  const int64_t dim = b.p.dim, step = b.p.queries * dim, key = entry.strip * STRIP;
  const int64_t here = tuili::least(STRIP, b.p.keys - key);
  const float* weights = b.at(b.s.scores, entry.token, entry.slot) + row * STRIP;
  const float* grads = b.at(b.s.products, entry.token, entry.slot) + row * STRIP;
  const float* keys = b.p.k + (b.head * b.p.keys + key) * dim;
  gather<R, V>(grads, keys, here, dim, b.grad_q(entry.token) + row * step, step);
  scatter<R, V>(grads, b.q(entry.token) + row * step, step, here, dim, b.grad_k + key * dim);
  scatter<R, V>(weights, b.grad_out(entry.token) + row * step, step, here, dim, b.grad_v + key * dim);
}

// Call Work<R> for all heads of a group, up to BACK_ROWS at a time.
#define BY_ROWS(WORK)                                          \
  for (int64_t row = 0; row < b.rows; row += BACK_ROWS) {      \
    switch (tuili::least(BACK_ROWS, b.rows - row)) {           \
      case 1: WORK(1); break;                                  \
      case 2: WORK(2); break;                                  \
      case 3: WORK(3); break;                                  \
      default: WORK(4);                                        \
    }                                                          \
  }
#define MEASURE(R) measure<R>(b, entry, row)
#define SPREAD_WIDE(R) spread_out<R, 2>(b, entry, row)
#define SPREAD(R) spread_out<R, 1>(b, entry, row)

// What flows back from the tokens of one tile.
void backward(const DsaBackward& p, const BackScratch& s, int64_t head, int64_t part, int64_t first, int64_t last) {
  const int64_t heads = p.batch * p.groups, size = p.keys * p.dim, spb = p.block / STRIP;
  const int64_t shift = (part * heads + head) * size;
  const Back b{p, s, head, first, last, p.grad_k + shift, p.grad_v + shift, spb, p.keep * spb, p.heads_per_group};
  Entry* entries = reinterpret_cast<Entry*>(s.entries);
  const int64_t count = list(b, entries, s.next);
  for (int64_t i = 0; i < count; ++i) {
    const Entry& entry = entries[i];
    BY_ROWS(MEASURE)
  }
  for (int64_t token = first; token < last; ++token) {
    int64_t num_mine = 0;
    for (int64_t i = 0; i < count; ++i)
      if (entries[i].token == token) s.mine[num_mine++] = i;
    for (int64_t row = 0; row < b.rows; ++row) soften(b, token, row, entries, s.mine, num_mine);
  }
  for (int64_t i = 0; i < count; ++i) {
    const Entry& entry = entries[i];
    if (p.dim % (2 * W)) {
      BY_ROWS(SPREAD)
    } else {
      BY_ROWS(SPREAD_WIDE)
    }
  }
}

// One strip's keys and values, each with 16 keys side by side.
void pack_back(const DsaBackward& p, int64_t head, int64_t strip) {
  float* to = p.packed + (head * ((p.keys + STRIP - 1) / STRIP) + strip) * 2 * p.dim * STRIP;
  for (int which = 0; which < 2; ++which) {
    const float* from = which ? p.v : p.k;
    for (int64_t j = 0; j < STRIP; ++j) {
      const int64_t key = strip * STRIP + j;
      for (int64_t i = 0; i < p.dim; ++i)
        to[i * STRIP + j] = key < p.keys ? from[(head * p.keys + key) * p.dim + i] : 0.0f;
    }
    to += p.dim * STRIP;
  }
}

}  // namespace
