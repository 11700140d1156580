// Random calls of every kernel of every level that runs here, in memory of exactly their size, by one thread and by
// several. It ends with 0 if all have the same bits, and prints a hash of them, which is the same on every machine.
// Tests build it with the sanitizers, and for another processor.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "dispatch.h"
#include "kernels.h"

namespace {

using dovetail::Kernels;
using dovetail::Pool;

std::mt19937_64 generator(1);

int64_t uniform(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(generator() % static_cast<uint64_t>(most - least + 1));
}

// Sums of four integers over 2^20: no function of the C library is in them, which could round in its own way.
std::vector<float> floats(int64_t count, float size = 1.0f) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float &value : values) {
        int64_t sum = 0;
        for (int i = 0; i < 4; i++) {
            sum += static_cast<int64_t>(generator() >> 43) - (int64_t{1} << 20);
        }
        value = static_cast<float>(sum >> 4) / 65536.0f * size;
    }
    return values;
}

std::vector<int64_t> range(int64_t first, int64_t count) {
    std::vector<int64_t> values(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; i++) {
        values[static_cast<size_t>(i)] = first + i;
    }
    return values;
}

// Shares the tasks of a call among so many threads, which end with it.
struct Threads {
    int count;

    static void run(void *self, size_t tasks, void (*task)(void *data, size_t index), void *data) {
        std::atomic<size_t> next{0};
        const auto work = [&] {
            for (size_t index = next++; index < tasks; index = next++) {
                task(data, index);
            }
        };
        std::vector<std::thread> others;
        for (int i = 1; i < static_cast<Threads *>(self)->count; i++) {
            others.emplace_back(work);
        }
        work();
        for (std::thread &other : others) {
            other.join();
        }
    }
    Pool pool() { return {this, run}; }
};

void must_be(bool holds, const char *what) {
    if (!holds) {
        std::fprintf(stderr, "%s\n", what);
        std::exit(1);
    }
}

bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

uint64_t hash = 14695981039346656037u;  // FNV-1a

void add_to_hash(const std::vector<float> &values) {
    for (float value : values) {
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        for (int shift = 0; shift < 32; shift += 8) {
            hash = (hash ^ (bits >> shift & 255)) * 1099511628211u;
        }
    }
}

// Runs a case at every level with one thread and with three; the case returns what it wrote.
template <class Case>
void at_every_level(const char *name, Case run) {
    std::vector<float> expected;
    for (const Kernels *const *level = dovetail::usable_kernels(); *level != nullptr; level++) {
        for (int count : {1, 3}) {
            Threads threads{count};
            std::vector<float> found = run(**level, threads.pool());
            if (expected.empty()) {
                expected = found;
            }
            if (!same_bits(expected, found)) {
                std::fprintf(stderr, "%s at level %s with %d threads: ", name, (*level)->name, count);
                must_be(false, "other bits than before");
            }
        }
    }
    add_to_hash(expected);
}

struct PackedWeight {
    std::vector<uint8_t> codes;
    std::vector<float> scales;
    std::vector<uint16_t> factors;
    std::vector<uint8_t> nibbles;  // the same size in 4 bits
    std::vector<uint16_t> steps;
    std::vector<float> bias;

    PackedWeight(int64_t outputs, int64_t inputs) {
        const int64_t padded = (inputs + 63) / 64 * 64;
        codes.assign(static_cast<size_t>((outputs + 31) / 32 * 32 * padded), 128);
        for (int64_t n = 0; n < outputs; n++) {
            for (int64_t k = 0; k < inputs; k++) {
                codes[static_cast<size_t>(((n / 32 * (padded / 4) + k / 4) * 32 + n % 32) * 4 + k % 4)] =
                    static_cast<uint8_t>(uniform(0, 255));
            }
        }
        scales = floats(outputs, 0.01f);
        bias = floats(outputs);
        factors.resize(codes.size() / 64);
        for (uint16_t &factor : factors) {
            factor = static_cast<uint16_t>(uniform(0x0400, 0x3c00));  // the smallest normal float16 to 1
        }
        nibbles.resize(codes.size() / 2);
        for (uint8_t &pair : nibbles) {
            pair = static_cast<uint8_t>(uniform(0, 255));
        }
        steps.resize(codes.size() / 16);
        for (uint16_t &step : steps) {
            step = static_cast<uint16_t>(uniform(0, 0x3c00) | uniform(0, 1) << 15);  // -1 to 1, subnormal ones too
        }
    }

    dovetail::Weight of(int64_t outputs, int64_t inputs, int64_t block, bool has_groups) const {
        const uint16_t *groups = has_groups ? factors.data() : nullptr;
        return {codes.data(), scales.data(), groups, bias.data(), outputs, inputs, block, 8};
    }

    dovetail::Weight of_4_bits(int64_t outputs, int64_t inputs) const {
        return {nibbles.data(), scales.data(), steps.data(), bias.data(), outputs, inputs, 32, 4};
    }
};

void run_products() {
    const int64_t rows = uniform(1, 20);
    const int64_t inputs = uniform(1, 300);
    const int64_t outputs = uniform(1, 200);
    const auto prologue = static_cast<dovetail::Prologue>(uniform(0, 2));
    const auto activation = static_cast<dovetail::Activation>(uniform(0, 1));
    const bool has_skip = uniform(0, 1) != 0;
    const int64_t block = uniform(0, 1) != 0 ? 64 : 32;
    const bool has_groups = uniform(0, 1) != 0;
    const bool has_4_bits = uniform(0, 2) == 0;
    const PackedWeight weight(outputs, inputs);
    const std::vector<float> x = floats(rows * inputs * (prologue == dovetail::Prologue::kGated ? 2 : 1));
    const std::vector<float> skip = floats(rows * inputs);
    const std::vector<float> norm = floats(inputs);
    at_every_level("product", [&](const Kernels &kernels, const Pool &pool) {
        std::vector<float> y(static_cast<size_t>(rows * outputs));
        std::vector<float> sum(static_cast<size_t>(rows * inputs));
        dovetail::ProductCall call{};
        call.prologue = prologue;
        call.activation = activation;
        call.rows = rows;
        call.x = x.data();
        if (prologue == dovetail::Prologue::kNormed) {
            call.skip = has_skip ? skip.data() : nullptr;
            call.norm_weight = norm.data();
            call.epsilon = 1e-5f;
            call.sum = has_skip ? sum.data() : nullptr;
        }
        call.weight = has_4_bits ? weight.of_4_bits(outputs, inputs) : weight.of(outputs, inputs, block, has_groups);
        call.y = y.data();
        must_be(kernels.product(call, pool) == nullptr, "product failed");
        y.insert(y.end(), sum.begin(), sum.end());
        return y;
    });
}

void run_norms() {
    const int64_t rows = uniform(1, 9);
    const int64_t inputs = uniform(1, 300);
    const std::vector<float> x = floats(rows * inputs);
    const std::vector<float> weight = floats(inputs);
    at_every_level("norm", [&](const Kernels &kernels, const Pool &pool) {
        std::vector<float> y(x.size());
        const dovetail::NormCall call{rows, inputs, x.data(), nullptr, weight.data(), 1e-6f, nullptr, y.data()};
        must_be(kernels.norm(call, pool) == nullptr, "norm failed");
        return y;
    });
}

void run_embeddings() {
    const int64_t rows = uniform(1, 9);
    const int64_t inputs = uniform(1, 300);
    const int64_t outputs = uniform(1, 100);
    const bool has_groups = uniform(0, 1) != 0;
    const PackedWeight weight(outputs, inputs);
    std::vector<int64_t> ids(static_cast<size_t>(rows));
    for (int64_t &id : ids) {
        id = uniform(0, outputs - 1);
    }
    at_every_level("embedding", [&](const Kernels &kernels, const Pool &pool) {
        std::vector<float> y(static_cast<size_t>(rows * inputs));
        dovetail::EmbeddingCall call{};
        call.rows = rows;
        call.ids = ids.data();
        call.weight = weight.of(outputs, inputs, 64, has_groups);
        call.y = y.data();
        must_be(kernels.embedding(call, pool) == nullptr, "embedding failed");
        return y;
    });
}

// Chains of two sequences, or a path whose slots are a tree's for the interface.
void run_attention() {
    const int64_t kv_heads = uniform(1, 3);
    const int64_t heads = kv_heads * uniform(1, 4);
    const int64_t size = 16 * uniform(1, 8);
    const int64_t rotary = 2 * uniform(0, size / 2);
    const bool is_tree = uniform(0, 1) != 0;
    const int64_t sequences = is_tree ? 1 : 2;
    const int64_t rows_each = uniform(1, 12);
    const int64_t rows = sequences * rows_each;
    const int64_t length = uniform(0, 1) != 0 ? uniform(0, 70) : uniform(450, 1100);
    const int64_t slots = (length + rows_each + 63) / 64 * 64;
    const bool is_half = uniform(0, 1) != 0;
    const int64_t cells = sequences * kv_heads * slots * size;
    const std::vector<float> qkv = floats(rows * (heads + 2 * kv_heads) * size);
    const std::vector<float> cos = floats((length + rows_each) * (rotary / 2));
    const std::vector<float> sin = floats((length + rows_each) * (rotary / 2));
    const std::vector<float> norm = floats(size);
    const std::vector<int64_t> lengths(static_cast<size_t>(sequences), length);
    std::vector<int64_t> row_slots;
    std::vector<int64_t> sequence_ids;
    for (int64_t sequence = 0; sequence < sequences; sequence++) {
        const std::vector<int64_t> own = range(length, rows_each);
        row_slots.insert(row_slots.end(), own.begin(), own.end());
        sequence_ids.insert(sequence_ids.end(), own.size(), sequence);
    }
    std::vector<int64_t> ancestors;
    if (is_tree) {
        ancestors.assign(static_cast<size_t>(rows * rows), -1);
        for (int64_t row = 0; row < rows; row++) {
            for (int64_t i = 0; i < row; i++) {
                ancestors[static_cast<size_t>(row * rows + i)] = length + i;
            }
        }
    }
    dovetail::AttentionCall call{};
    call.rows = rows;
    call.heads = heads;
    call.kv_heads = kv_heads;
    call.head_size = size;
    call.rotary_size = rotary;
    call.sequences = sequences;
    call.slots_per_sequence = slots;
    call.window = uniform(0, 2) == 0 ? uniform(1, 600) : 0;
    call.scale = 0.2f;
    call.soft_cap = uniform(0, 2) == 0 ? 20.0f : 0.0f;
    call.epsilon = 1e-6f;
    call.cache_type = is_half ? dovetail::CacheType::kHalf : dovetail::CacheType::kFloat;
    call.qkv = qkv.data();
    call.query_norm = uniform(0, 1) != 0 ? norm.data() : nullptr;
    call.key_norm = call.query_norm;
    call.cos = cos.data();
    call.sin = sin.data();
    call.position_ids = row_slots.data();
    call.sequence_ids = sequence_ids.data();
    call.slots = row_slots.data();
    call.lengths = lengths.data();
    call.ancestors = ancestors.data();
    call.max_ancestors = is_tree ? rows : 0;
    at_every_level("attention", [&](const Kernels &kernels, const Pool &pool) {
        const size_t bytes = static_cast<size_t>(cells) * (is_half ? 2 : 4);
        std::vector<uint8_t> keys(bytes, 0x2c);  // small numbers in both types
        std::vector<uint8_t> values(bytes, 0x2c);
        std::vector<float> y(static_cast<size_t>(rows * heads * size));
        dovetail::AttentionCall mine = call;
        mine.keys = keys.data();
        mine.values = values.data();
        mine.y = y.data();
        must_be(kernels.attention(mine, pool) == nullptr, "attention failed");
        return y;
    });
}

}  // namespace

int main(int count, char **arguments) {
    const int rounds = count > 1 ? std::atoi(arguments[1]) : 40;
    for (int round = 0; round < rounds; round++) {
        run_products();
        run_norms();
        run_embeddings();
        run_attention();
    }
    std::printf("%016llx\n", static_cast<unsigned long long>(hash));
    return 0;
}
