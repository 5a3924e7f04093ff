// What a call is given (the C interface), and the sizes that follow from it.
//
// Letters: B batch rows, G key-value groups, R query heads a group, T queries (the last T of the N keys), d head width,
// Q gate queries a group, e gate width. A "strip" is 16 consecutive keys; a block is one or more strips. Panels hold
// keys transposed, 16 keys side by side, in units of four bytes: one float, or a pair of bfloat16 ("cell").
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__)
#if __has_include(<amxbf16intrin.h>)  // as old as the assembler's knowledge of tiles
#define TUILI_HAS_TILES 1
#endif
#endif

extern "C" struct DsaProblem {
  int64_t batch, groups, heads_per_group, queries, keys, dim;
  int64_t block, keep, sink, local;              // keep: blocks a token may hold
  int64_t gate_queries, gate_dim, sub, beam;  // beam: groups of 16 blocks that a token opens; 0: all
  int64_t is_bf16, gate_is_bf16, gate_is_int8;  // gate keys are int8, or like the gate queries float or bfloat16
  int64_t selects, attends, normalizes, threads;
  int64_t window, window_sink;  // without a selection: the last keys that a token reads, and the row's first; 0: blocks
  int64_t q_stride[3], k_stride[3], v_stride[3], out_stride[3];  // batch, head or group, token; width is contiguous
  int64_t gate_q_stride[4], gate_k_stride[3];                    // batch, token, group, query; batch, sub-block, group
  int64_t prior_stride[3], prior_size;                           // batch, token (0 repeats), group; P
  const void *q, *k, *v, *gate_q, *gate_k;
  void* out;
  const float* gate_scale; // [B, whole blocks, G] contiguous, of int8 gate keys; or null
  const int8_t* means;     // [B, whole blocks, G, e] contiguous, mean gate keys in int8; or null
  const float* mean_scale; // [B, whole blocks, G] contiguous, their factors; or null
  const float* offset;     // [B, T, G, Q] contiguous, what is taken off a gate query's scores; or null
  const float* bias;       // [G], or null
  const int64_t* start;    // [B] first valid key, or null
  const int32_t* prior;    // [B, T or 1, G, P] blocks, -1 unused, or null
  int32_t* blocks;         // [B, T, G, keep], contiguous; written by the selection, read without one
  double scale, coverage, penalty;  // coverage 0: off
};

// The gradient of attention over given blocks; float32, everything contiguous. Heads of a group lie together.
extern "C" struct DsaBackward {
  int64_t batch, groups, heads_per_group, queries, keys, dim;  // dim: a multiple of 16
  int64_t block, keep, parts, threads;  // parts: copies of the gradients of keys and values, added up by the caller
  const float *q, *k, *v, *grad_out;    // [B, G, R, T, d], [B, G, N, d] twice, [B, G, R, T, d]
  const int32_t* blocks;                // [B, T, G, keep] ascending, -1 unused
  float *grad_q, *grad_k, *grad_v;      // [B, G, R, T, d], [parts, B, G, N, d] twice; begin as zeros
  float* grad_gate;                     // [B, T, G, keep] begins as zeros, or null
  float* packed;                        // [B, G, strips, 2, d, 16], room to work in
  double scale;
};

namespace tuili {

constexpr int STRIP = 16;      // keys side by side in a panel
constexpr int MAX_TILE = 32;   // query tokens worked on together
constexpr int MAX_CHUNK = 4;   // query heads, or gate queries, worked on together
constexpr int TILE_ROWS = 16;  // rows of a matrix tile
constexpr int STRIPS_AT_ONCE = 32;  // strips between two passes of the softmax, where tiled
constexpr int TRAILER = 3;     // after a gate query's cells: where its sums begin, its factor, its offset

struct Sizes {
  int64_t width;        // d rounded up to whole strips, for matrix tiles to pairs of them
  int64_t cells;        // cells of a key: width, or half of it for pairs
  int64_t value_rows;   // rows of a strip of values: 16 keys, or 8 pairs of keys
  int64_t panel;        // cells of a strip: keys, then values
  int64_t strips, strips_per_block, offset;
  int64_t slots;        // strips that a token attends to at most
  int64_t tile;         // query tokens of a tile
  int64_t gate_width, gate_cells, subs_per_block;
  int64_t gate_row;     // cells of a gate query and its TRAILER, for matrix tiles rounded up to cache lines
  int64_t gate_panel;   // cells of a group of 16 blocks: gate keys, then a factor for each block
  int64_t mean_panel;   // cells of the mean gate keys of 16 blocks and the factor of each
  int64_t gate_panels;  // groups of 16 blocks
  int64_t whole_blocks; // blocks that are full
  int64_t most_open;    // groups of 16 blocks that a token opens at most
  int64_t free;         // blocks that a token may choose
  bool packs_all;       // keys are packed once for everybody, not by each tile that wants them
  bool packs_gate;      // the same for gate keys
  bool is_tiled;        // products are made of matrix tiles
};

// Memory of one thread.
struct Scratch {
  float* q;             // [tile][cells][chunk]; where tiled [rows][cells]
  float* scores;        // [tile][slots][chunk][16]; where tiled [STRIPS_AT_ONCE][16][16]
  float* sums;          // [tile][chunk][width]; where tiled [rows][width]
  float* totals;        // [tile][chunk]
  float* strip;         // one panel, where keys are not packed for all
  float* gate_strip;    // the same for gate keys
  uint32_t* members;    // [strips] which tokens of the tile attend to a strip
  int32_t* wanted;      // [strips] those that any token attends to, ascending
  int64_t* num_wanted;
  int32_t* picked;      // [tile][keep]
  int32_t* num_picked;  // [tile]
  float* offsets;       // [tile][heads of the group] log-sum-exp of the scores of the keys that are always kept
  float* gate_q;        // [tile][gate queries][gate_row]
  float* coarse;        // [tile][gate_panels * 16] scores by mean gate keys
  int32_t* open;        // [tile][most_open]
  float* masses;        // [tile][most_open][16]
  int32_t* order;       // [gate_panels * 16]
  int32_t* places;      // as `order`, or the prior's size if more
  float* saved;         // [prior's size]
};

// What all threads share.
struct Shared {
  float* panels;        // [B][G][strips][panel]
  float* gate_panels;   // [B][G][gate_panels][gate_panel]: [subs_per_block][gate_cells][16], then [16]
  float* mean_panels;   // [B][G][gate_panels][mean_panel]: [gate_cells][16], then [16]
};

struct Place {
  int64_t row, group, first, last;  // batch row, group, query tokens first <= t < last
};

// Memory of one thread that computes gradients, for a tile of tokens.
struct BackScratch {
  float *scores, *products;  // [tile][slots][R][16]
  int64_t* entries;          // [tile * slots][3]
  int64_t *next, *mine;      // [tile], [slots]
};

// The functions compiled for one instruction set.
struct Kernels {
  void (*pack_strip)(const DsaProblem&, const Sizes&, int64_t row, int64_t group, int64_t strip, float* panel);
  void (*normalize)(const DsaProblem&, const Sizes&, const Shared&, const Place&, const Scratch&);
  void (*attend)(const DsaProblem&, const Sizes&, const Shared&, const Place&, const Scratch&);
  void (*pack_gate)(const DsaProblem&, const Sizes&, int64_t row, int64_t group, int64_t panel, float* out);
  void (*pack_means)(const DsaProblem&, const Sizes&, int64_t row, int64_t group, int64_t panel, float* out);
  void (*select)(const DsaProblem&, const Sizes&, const Shared&, const Place&, const Scratch&);
  void (*pack_back)(const DsaBackward&, int64_t head, int64_t strip);
  void (*backward)(const DsaBackward&, const BackScratch&, int64_t head, int64_t part, int64_t first, int64_t last);
};

inline int64_t up(int64_t number, int64_t unit) { return (number + unit - 1) / unit * unit; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t first_key(const DsaProblem& p, int64_t row) { return p.start ? p.start[row] : 0; }

extern const Kernels portable_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx2int8_kernels;
extern const Kernels avx512_kernels;
extern const Kernels avx512vnni_kernels;
extern const Kernels avx512bf16_kernels;
#endif
#if TUILI_HAS_TILES
extern const Kernels amx_kernels;
extern const Kernels amxint8_kernels;
bool has_tiles();
#endif

}  // namespace tuili
