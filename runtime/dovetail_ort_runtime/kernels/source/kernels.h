// What one level of the kernels offers: plain data in, plain data out. It knows no ONNX and no ONNX Runtime.
//
// One rule stands behind all of it: a row's result is a function of that row, of the tokens before it, and of nothing
// else. The number of rows beside it, their order, the number of threads and the processor change no bit. So every sum
// has one order, which is written beside the call it belongs to, and every operation is one of: +, -, *, /, sqrt and
// fma in float32 with round to nearest even, exact integer sums, and conversions that round to nearest even. exp, exp2
// and tanh are made of these operations in exponential.h.
//
// Axes: S rows, K inputs, N outputs, B sequences, H query heads, Hkv heads of keys and values, D head size, M slots of
// a sequence's cache, A ancestors at most.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dovetail {

constexpr int64_t kSlab = 32;         // outputs that lie side by side in a packed weight
constexpr int64_t kInputPad = 64;     // a packed weight's inputs are filled up to a multiple of this
constexpr int64_t kGroup = 64;        // inputs of an output that share a factor, where a weight has factors
constexpr int64_t kNibbleGroup = 32;  // inputs of an output that share a step and a minimum, in a weight of 4 bits
constexpr int64_t kCacheBlock = 64;   // positions that lie side by side in a cache of keys
constexpr int64_t kRange = 512;       // logical positions that are summed up without a break
constexpr int kLanes = 16;            // lanes of the sums that run over many lanes
constexpr uint8_t kZero = 128;        // the code that stands for 0

// Runs task(data, 0) to task(data, count - 1), each once, on any threads, and returns when all have ended.
struct Pool {
    void *self;
    void (*run)(void *self, size_t count, void (*task)(void *data, size_t index), void *data);
};

// A weight (N, K) in 8 bits: output n of input k is (code - 128) * factor(n, k / 64) * scales[n]. All factors of a
// weight without groups are 1.
//
// codes are (ceil(N / 32), Kp / 4, 32, 4) with Kp = K rounded up to 64; the code of (n, k) stands at
//
//     ((n / 32 * (Kp / 4) + k / 4) * 32 + n % 32) * 4 + k % 4
//
// Codes of inputs and outputs that are only there to fill up are 128. Factors are float16 in (0, 1], laid out as
// (ceil(N / 32), Kp / 64, 32), so that they lie as their codes do. Those of outputs that only fill up are 1.
//
// A weight in 4 bits: output n of input k is (step(n, k / 32) * code + minimum(n, k / 32)) * scales[n], code 0 to 15.
// A byte holds two codes: of eight inputs the first four lie in the low halves of four bytes, the others in the high
// ones. So codes are (ceil(N / 32), Kp / 8, 32, 4); the code of (n, k) is half k / 4 % 2, 0 being the low one, of
//
//     ((n / 32 * (Kp / 8) + k / 8) * 32 + n % 32) * 4 + k % 4
//
// Factors are float16, (ceil(N / 32), Kp / 32, 2, 32): steps, then minima. Whatever fills up is 0. Its block is 32.
struct Weight {
    const uint8_t *codes;
    const float *scales;      // (N,)
    const uint16_t *factors;  // or null: a weight without groups
    const float *bias;        // (N,), or null
    int64_t outputs;          // N
    int64_t inputs;           // K
    int64_t block;            // inputs of a row that share a scale: 64, or 32, which rounds finer
    int64_t bits;             // 8 or 4
};

enum class Prologue { kPlain, kGated, kNormed };
enum class Activation { kSilu, kGeluTanh };

// y = a W^T * scales + bias, where a is the row that the prologue makes, quantised.
//
// plain:  a = x
// gated:  a = activation(g) * u, where x = [g, u] is (S, 2K); silu(g) = g / (1 + exp(-g)), and gelu_tanh stands in
//         product.h
// normed: a = norm(x + skip) as of NormCall, where skip may be null
//
// Quantised in blocks: m is the largest magnitude of a block, its scale is m / 127, an input's integer is a * (127 / m)
// rounded to nearest even. A block with m < 2^-100 is zero with the scale 0; one that is not finite has the scale NaN.
// y is the sum over the blocks, ascending, as a chain of fma(float(exact integer sum of the block), scale, y) that
// begins with 0, then times the output's scale, then plus the bias as an operation of its own. Where the weight has
// groups, the scale of the chain is the block's scale * factor(n, group of the block), rounded by itself.
//
// With 4 bits a block adds twice to the chain:
//
//     y = fma(float(exact sum of code * integer), scale * step, y)
//     y = fma(float(exact sum of integers) * scale, minimum, y)
//
// where both products are rounded by themselves. What follows is as with 8 bits.
struct ProductCall {
    Prologue prologue;
    Activation activation;
    int64_t rows;              // S
    const float *x;            // (S, K); (S, 2K) if gated
    const float *skip;         // (S, K), or null
    const float *norm_weight;  // (K,), if normed
    float epsilon;             // if normed
    float *sum;                // (S, K), x + skip, or null
    Weight weight;
    float *y;  // (S, N)
};

// y = s * (1 / sqrt(mean(s^2) + epsilon)) * weight with s = x + skip.
//
// The squares are summed in 16 lanes, lane k % 16 as a chain of fma(s, s, lane) over ascending k, and the lanes by the
// tree of lanes.h; mean is that sum / K; y is (s * (1 / sqrt(mean + epsilon))) * weight. The sum s is an output of its
// own where it is asked for.
struct NormCall {
    int64_t rows;         // S
    int64_t inputs;       // K
    const float *x;       // (S, K)
    const float *skip;    // (S, K), or null
    const float *weight;  // (K,)
    float epsilon;
    float *sum;  // (S, K), or null
    float *y;    // (S, K)
};

// y = ((code - 128) * factor) * scale, of the outputs that ids name; the ids are within bounds.
struct EmbeddingCall {
    int64_t rows;        // S
    const int64_t *ids;  // (S,)
    Weight weight;       // (V, K); block and bias do not matter
    float *y;            // (S, K)
};

enum class CacheType { kHalf, kFloat };

// Attention over logical positions: rotary embedding, append to the cache, scores, softmax, values.
//
// Row i belongs to sequence b = sequence_ids[i], is written to slot slots[i] of it, and sees, in this order:
//
//     A = 0, a chain: slots 0 to slots[i] - 1, then itself;
//     A > 0, a tree:  slots 0 to lengths[b] - 1, then those that ancestors[i] lists up to the first -1, then itself.
//
// That order is the order of logical positions 0, 1, 2 ...; the row itself has the last one, p. With a window w > 0 it
// sees logical positions above p - w only. What a row does not see is skipped: it may be NaN.
//
// Query and key are normed by head where there are weights for it (as of NormCall with K = D), then rotated: with c and
// s from row position_ids[i] of the tables, for j < R / 2
//
//     y[j]         = fma(x[j], c[j], -(x[j + R / 2] * s[j]))
//     y[j + R / 2] = fma(x[j + R / 2], c[j], x[j] * s[j])
//
// and y[j] = x[j] for j >= R. The query is then multiplied by scale * log2(e), or, with a soft cap c, by scale / c.
// Key and value are rounded to the cache's type, nearest even; what is beyond the largest half is that largest half.
//
// A score is one chain of fma(query[d], key[d], score) over ascending d that begins with 0; with a soft cap it becomes
// (c * log2(e)) * tanh(score). Scores are base-2 exponents. Logical positions are cut into ranges of 512 that begin at
// multiples of 512. In a range: m is the largest score, weights are exp2(score - m), l is their sum in 16 lanes, lane
// position % 16 over ascending positions, then the tree of lanes.h; o[d] is one chain of fma(weight, value[d], o[d])
// over ascending positions that begins with 0.
//
// One range: y = o * (1 / l). Several: with m of all ranges, f = exp2(m_r - m), l = the chain of fma(f, l_r, l) and
// o[d] = the chain of fma(f, o_r[d], o[d]) over ascending ranges, y = o * (1 / l).
//
// Keys lie as (B, Hkv, M / 64, D, 64), values as (B, Hkv, M, D); M is a multiple of 64.
struct AttentionCall {
    int64_t rows;                // S
    int64_t heads;               // H
    int64_t kv_heads;            // Hkv
    int64_t head_size;           // D, a multiple of 16, at most 256
    int64_t rotary_size;         // R, even, at most D
    int64_t sequences;           // B
    int64_t slots_per_sequence;  // M
    int64_t window;              // 0 for none
    float scale;
    float soft_cap;  // 0 for none
    float epsilon;   // of the norms by head
    CacheType cache_type;
    const float *qkv;             // (S, (H + 2 Hkv) D)
    const float *query_norm;      // (D,), or null
    const float *key_norm;        // (D,), or null
    const float *cos;             // (P, R / 2)
    const float *sin;             // (P, R / 2)
    const int64_t *position_ids;  // (S,), rows of cos and sin
    const int64_t *sequence_ids;  // (S,)
    const int64_t *slots;         // (S,)
    const int64_t *lengths;       // (B,)
    const int64_t *ancestors;     // (S, A)
    int64_t max_ancestors;        // A
    void *keys;                   // written and read
    void *values;
    float *y;  // (S, H D)
};

// A level: one set of instructions. A level with a matrix unit (AMX) takes the exact integer sums of many rows from it:
// they are the same integers, so no bit changes. Each function takes arguments that have been checked, and returns
// null, or what went wrong in words (memory that is not to be had).
struct Kernels {
    const char *name;
    const char *(*product)(const ProductCall &call, const Pool &pool);
    const char *(*norm)(const NormCall &call, const Pool &pool);
    const char *(*embedding)(const EmbeddingCall &call, const Pool &pool);
    const char *(*attention)(const AttentionCall &call, const Pool &pool);
};

// Memory of the calling thread, aligned to 64 bytes; null if there is none. It grows, and is kept until the thread
// ends. An operator keeps call_scratch while its tasks run. A task has task_scratch, as it may run in the same thread.
void *call_scratch(size_t bytes);
void *task_scratch(size_t bytes);

}  // namespace dovetail
