// The C interface: sizes, memory, threads, and the choice of the kernels.
//
// A fresh set of threads for each call, not OpenMP: no second OpenMP runtime beside torch's, and a fork is safe.
#include "dsa.h"

#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <exception>
#include <thread>
#include <vector>

namespace tuili {
namespace {

constexpr int64_t CACHE_LINE = 64;
constexpr int64_t PER_THREAD = 4 << 20;  // products for which a thread is worth its start beside torch's waiting ones
constexpr int64_t SCORE_BYTES = 512 << 10;  // scores of a tile stay in the second-level cache

enum Level { PORTABLE = 0, AVX2 = 1, AVX512 = 2, AVX512_INT8 = 3, AVX512_BF16 = 4, AMX = 5 };

Level best_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool has_int8 = __builtin_cpu_supports("avx512vnni"), has_bf16 = __builtin_cpu_supports("avx512bf16");
#if TUILI_HAS_TILES
  if (has_512 && has_int8 && has_bf16 && has_tiles()) return AMX;
#endif
  if (has_512) return !has_int8 ? AVX512 : has_bf16 ? AVX512_BF16 : AVX512_INT8;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
  return PORTABLE;
}

const Kernels& kernels(int64_t level, bool is_bf16) {
#if TUILI_HAS_TILES
  if (level == AMX && is_bf16) return amx_kernels;
#endif
#if defined(__x86_64__)
  if (level >= AVX512_BF16 && is_bf16) return avx512bf16_kernels;
  if (level >= AVX512) return avx512_kernels;
  if (level == AVX2) return avx2_kernels;
#endif
  return portable_kernels;
}

// Gate keys in int8 are multiplied as such or as int16; those in bfloat16, or where the processor can't, as floats.
const Kernels& gate_kernels(const DsaProblem& p, int64_t level) {
#if TUILI_HAS_TILES
  if (level == AMX && p.gate_is_int8) return amxint8_kernels;
#endif
#if defined(__x86_64__)
  if (level >= AVX512_INT8 && p.gate_is_int8) return avx512vnni_kernels;
  if (level == AVX2 && p.gate_is_int8) return avx2int8_kernels;
#endif
  return kernels(level, false);
}

// Tokens whose query heads fill a matrix tile.
int64_t tokens_at_once(const DsaProblem& p) { return most(TILE_ROWS / p.heads_per_group, 1); }

Sizes sizes(const DsaProblem& p, int64_t level) {
  const bool is_paired = level >= AVX512_BF16 && p.is_bf16;
  const int64_t per_gate_cell = !p.gate_is_int8 ? 1 : level >= AVX512_INT8 ? 4 : level == AVX2 ? 2 : 1;
  Sizes z{};
  z.width = up(p.dim, level == AMX && is_paired ? 2 * STRIP : STRIP);
  z.cells = is_paired ? z.width / 2 : z.width;
  z.value_rows = is_paired ? STRIP / 2 : STRIP;
  z.panel = z.cells * STRIP + z.value_rows * z.width;
  z.strips = (p.keys + STRIP - 1) / STRIP;
  z.strips_per_block = p.block / STRIP;
  z.offset = p.keys - p.queries;
  z.slots = least(p.keep * z.strips_per_block, z.strips);
  const int64_t score_bytes = z.slots * least(p.heads_per_group, MAX_CHUNK) * STRIP * 4;
  z.tile = p.attends ? least(most(SCORE_BYTES / score_bytes, 1), MAX_TILE) : MAX_TILE;
  z.packs_all = p.queries * p.keep * z.strips_per_block > z.strips;
  z.is_tiled = level == AMX && is_paired && p.attends && z.packs_all;
  if (z.is_tiled) z.tile = MAX_TILE / tokens_at_once(p) * tokens_at_once(p);
  if (!p.selects) return z;
  const bool is_gate_tiled = level == AMX && p.gate_is_int8;
  z.gate_width = up(p.gate_dim, is_gate_tiled && p.gate_dim > 4 * TILE_ROWS ? 4 * TILE_ROWS : STRIP);
  z.gate_cells = z.gate_width / per_gate_cell;
  z.gate_row = is_gate_tiled ? up(z.gate_cells + TRAILER, STRIP) : z.gate_cells + TRAILER;
  z.subs_per_block = p.block / p.sub;
  z.gate_panel = (z.subs_per_block * z.gate_cells + 1) * STRIP;
  z.mean_panel = (z.gate_cells + 1) * STRIP;
  z.whole_blocks = p.keys / p.block;
  z.gate_panels = (z.whole_blocks + STRIP - 1) / STRIP;
  z.free = p.keep - p.sink - p.local;
  z.packs_gate = p.queries > z.tile;
  z.most_open = p.beam ? least(p.beam, z.gate_panels) : z.gate_panels;
  return z;
}

// Hands out parts of one piece of memory; without one it only adds up what is needed.
struct Arena {
  char* base;
  int64_t used = 0;
  template <class T>
  T* take(int64_t count) {
    T* at = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += up(count * static_cast<int64_t>(sizeof(T)), CACHE_LINE);
    return at;
  }
};

int64_t divide(const DsaProblem& p, const Sizes& z, char* base, Shared* shared) {
  Arena arena{base};
  const int64_t heads = p.batch * p.groups;
  shared->panels = arena.take<float>(p.attends && z.packs_all ? heads * z.strips * z.panel : 0);
  shared->gate_panels =
      arena.take<float>(z.packs_gate ? heads * z.gate_panels * z.gate_panel : 0);
  shared->mean_panels = arena.take<float>(z.packs_gate && z.most_open < z.gate_panels ? heads * z.gate_panels * z.mean_panel : 0);
  return arena.used;
}

int64_t divide(const DsaProblem& p, const Sizes& z, char* base, Scratch* s) {
  Arena arena{base};
  const int64_t chunk = least(p.heads_per_group, MAX_CHUNK), attends = p.attends ? z.tile : 0;
  const int64_t rows = z.is_tiled ? z.tile / tokens_at_once(p) * TILE_ROWS : attends * chunk;
  s->q = arena.take<float>(rows * z.cells);
  s->scores = arena.take<float>((z.is_tiled ? STRIPS_AT_ONCE * TILE_ROWS : z.slots * rows) * STRIP);
  s->sums = arena.take<float>(rows * z.width);
  s->totals = arena.take<float>(attends * chunk);
  s->strip = arena.take<float>(p.attends ? z.panel : 0);
  s->members = arena.take<uint32_t>(p.attends ? z.strips : 0);
  s->wanted = arena.take<int32_t>(p.attends ? z.strips : 0);
  s->num_wanted = arena.take<int64_t>(1);
  s->picked = arena.take<int32_t>(z.tile * p.keep);
  s->num_picked = arena.take<int32_t>(z.tile);
  const int64_t selects = p.selects ? z.tile : 0, candidates = z.gate_panels * STRIP;
  s->offsets = arena.take<float>(p.normalizes ? selects * p.heads_per_group : 0);
  s->gate_q = arena.take<float>((selects * p.gate_queries + TILE_ROWS) * z.gate_row);  // a tile may reach past the last
  s->gate_strip = arena.take<float>(p.selects ? most(z.gate_panel, z.mean_panel) : 0);
  s->coarse = arena.take<float>(z.most_open < z.gate_panels ? selects * z.gate_panels * STRIP : 0);
  s->open = arena.take<int32_t>(selects * z.most_open);
  s->masses = arena.take<float>(selects * z.most_open * STRIP);
  s->order = arena.take<int32_t>(candidates);
  s->places = arena.take<int32_t>(most(candidates, p.prior_size) + STRIP);
  s->saved = arena.take<float>(p.prior_size);
  return arena.used;
}

struct Freed {
  char* memory;
  explicit Freed(int64_t bytes)
      : memory(static_cast<char*>(aligned_alloc(CACHE_LINE, most(up(bytes, CACHE_LINE), CACHE_LINE)))) {}
  ~Freed() { free(memory); }
  Freed(const Freed&) = delete;
};

// Run work(thread, task) for all tasks. Where no thread can be had, those that are there do everything.
template <class Work>
void share_out(int64_t num_threads, int64_t num_tasks, Work work) {
  std::atomic<int64_t> next{0};
  const auto loop = [&](int64_t thread) {
    for (int64_t task; (task = next.fetch_add(1)) < num_tasks;) work(thread, task);
  };
  std::vector<std::thread> others;
  try {
    for (int64_t i = 1; i < least(num_threads, num_tasks); ++i) others.emplace_back(loop, i);
  } catch (const std::exception&) {
  }
  loop(0);
  for (std::thread& other : others) other.join();
}

void pack(const DsaProblem& p, const Sizes& z, int64_t level, int64_t num_threads, const Shared& shared) {
  const Kernels& of_keys = kernels(level, p.is_bf16);
  const Kernels& of_gate = gate_kernels(p, level);
  const int64_t heads = p.batch * p.groups;
  const int64_t strips = p.attends && z.packs_all ? z.strips : 0;
  const int64_t panels = z.packs_gate ? z.gate_panels : 0, means = z.most_open < z.gate_panels ? panels : 0;
  constexpr int64_t AT_ONCE = 32;
  const auto each = [&](int64_t count, auto one) {
    const int64_t parts = (count + AT_ONCE - 1) / AT_ONCE;
    share_out(num_threads, heads * parts, [&](int64_t, int64_t task) {
      const int64_t head = task / parts, begin = task % parts * AT_ONCE;
      for (int64_t i = begin; i < least(begin + AT_ONCE, count); ++i) one(head, i);
    });
  };
  each(strips, [&](int64_t head, int64_t i) {
    of_keys.pack_strip(p, z, head / p.groups, head % p.groups, i, shared.panels + (head * strips + i) * z.panel);
  });
  each(panels, [&](int64_t head, int64_t i) {
    float* to = shared.gate_panels + (head * panels + i) * z.gate_panel;
    of_gate.pack_gate(p, z, head / p.groups, head % p.groups, i, to);
  });
  each(means, [&](int64_t head, int64_t i) {
    float* to = shared.mean_panels + (head * means + i) * z.mean_panel;
    of_gate.pack_means(p, z, head / p.groups, head % p.groups, i, to);
  });
}

// List the blocks that hold each token's sink and window.
void read_windows(const DsaProblem& p, const Sizes& z, const Place& place, const Scratch& s) {
  const int64_t first = first_key(p, place.row);
  for (int64_t t = 0; t < place.last - place.first; ++t) {
    const int64_t position = z.offset + place.first + t, begin = most(first, position - p.window + 1) / p.block;
    int32_t* to = s.picked + t * p.keep;
    int32_t size = 0;
    for (int64_t i = first / p.block; i * p.block < first + p.window_sink && i < begin; ++i) to[size++] = static_cast<int32_t>(i);
    for (int64_t i = begin; position >= first && i <= position / p.block; ++i) to[size++] = static_cast<int32_t>(i);
    s.num_picked[t] = size;
  }
}

// Copy the given selection of a tile.
void read_blocks(const DsaProblem& p, const Place& place, const Scratch& s) {
  for (int64_t t = 0; t < place.last - place.first; ++t) {
    const int32_t* from = p.blocks + ((place.row * p.queries + place.first + t) * p.groups + place.group) * p.keep;
    int32_t size = 0;
    for (int64_t i = 0; i < p.keep; ++i)
      if (from[i] >= 0) s.picked[t * p.keep + size++] = from[i];
    s.num_picked[t] = size;
  }
}

// About how many products of floats a call takes; four of int8 count as one.
int64_t products(const DsaProblem& p, const Sizes& z) {
  const int64_t of_keys = p.attends ? p.heads_per_group * z.slots * STRIP * 2 * p.dim : 0;
  const int64_t of_gate = p.selects ? p.gate_queries * z.most_open * STRIP * z.subs_per_block * z.gate_cells : 0;
  return p.batch * p.groups * p.queries * (of_keys + of_gate);
}

int run(const DsaProblem& p, int64_t level) {
  const Sizes z = sizes(p, level);
  const int64_t tiles = (p.queries + z.tile - 1) / z.tile, tasks = p.batch * p.groups * tiles;
  const int64_t num_threads = most(least(least(p.threads, tasks), products(p, z) / PER_THREAD), 1);
  Shared shared;
  Scratch first;
  const int64_t bytes = divide(p, z, nullptr, &first);
  const Freed common(divide(p, z, nullptr, &shared)), own(bytes * num_threads);
  if (!common.memory || !own.memory) return 1;
  divide(p, z, common.memory, &shared);
  pack(p, z, level, num_threads, shared);
  const Kernels& of_keys = kernels(level, p.is_bf16);
  const Kernels& of_gate = gate_kernels(p, level);
  share_out(num_threads, tasks, [&](int64_t thread, int64_t task) {
    Scratch s;
    divide(p, z, own.memory + thread * bytes, &s);
    const int64_t head = task / tiles, begin = (tiles - 1 - task % tiles) * z.tile;
    const Place place{head / p.groups, head % p.groups, begin, least(begin + z.tile, p.queries)};
    if (p.normalizes) of_keys.normalize(p, z, shared, place, s);
    if (p.selects)
      of_gate.select(p, z, shared, place, s);
    else if (p.window)
      read_windows(p, z, place, s);
    else
      read_blocks(p, place, s);
    if (p.attends) of_keys.attend(p, z, shared, place, s);
  });
  return 0;
}

constexpr int64_t BACK_BYTES = 256 << 10;  // scores of a tile, which stay in the second-level cache
constexpr int64_t BACK_TILE = 16;

int run_backward(const DsaBackward& p, int64_t level) {
  const Kernels& of = kernels(level, false);
  const int64_t heads = p.batch * p.groups, strips = (p.keys + STRIP - 1) / STRIP, slots = p.keep * p.block / STRIP;
  const int64_t per_token = slots * p.heads_per_group * STRIP;
  const int64_t tile = most(least(BACK_BYTES / (per_token * 4), BACK_TILE), 1);
  const int64_t tiles = (p.queries + tile - 1) / tile, tasks = heads * p.parts;
  const auto take = [&](Arena arena, BackScratch* s) {
    s->scores = arena.take<float>(tile * per_token);
    s->products = arena.take<float>(tile * per_token);
    s->entries = arena.take<int64_t>(tile * slots * 3);
    s->next = arena.take<int64_t>(tile);
    s->mine = arena.take<int64_t>(slots);
    return arena.used;
  };
  BackScratch sized;
  const int64_t bytes = take(Arena{nullptr}, &sized), num_threads = most(least(p.threads, tasks), 1);
  const Freed own(bytes * num_threads);
  if (!own.memory) return 1;
  share_out(num_threads, heads * strips, [&](int64_t, int64_t i) { of.pack_back(p, i / strips, i % strips); });
  share_out(num_threads, tasks, [&](int64_t thread, int64_t task) {
    BackScratch s;
    take(Arena{own.memory + thread * bytes}, &s);
    const int64_t head = task / p.parts, part = task % p.parts;
    for (int64_t i = part; i < tiles; i += p.parts)
      of.backward(p, s, head, part, i * tile, least((i + 1) * tile, p.queries));
  });
  return 0;
}

}  // namespace
}  // namespace tuili

#define EXPORT extern "C" __attribute__((visibility("default")))

// The best level this processor has: 0 portable, 1 AVX2, 2 AVX-512, 3 with int8 products, 4 with bfloat16 ones too,
// 5 with matrix tiles (AMX).
EXPORT int64_t tuili_dsa_level() { return tuili::best_level(); }

// Bytes of a problem, so that the caller can tell whether both sides agree on it.
EXPORT int64_t tuili_dsa_problem_bytes() { return sizeof(DsaProblem); }

// Select, attend or both, at a level of at most tuili_dsa_level(). 0: done; 1: not enough memory.
EXPORT int tuili_dsa_run(const DsaProblem* problem, int64_t level) { return tuili::run(*problem, level); }

// Bytes of a gradient's problem, for the same reason.
EXPORT int64_t tuili_dsa_backward_bytes() { return sizeof(DsaBackward); }

// Compute gradients, at a level of at most tuili_dsa_level(). 0: done; 1: not enough memory.
EXPORT int tuili_dsa_backward(const DsaBackward* problem, int64_t level) {
  return tuili::run_backward(*problem, level);
}
