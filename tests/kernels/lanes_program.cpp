// Runs each operation of the lanes over the float32 of standard input, 16 at a time, and writes the results as 32-bit
// words: for each 16 values the results of all operations, in the order that test_lanes.py knows.
#include <cstdio>
#include <cstring>

#include "exponential.h"
#include "floating_mode.h"

using namespace dovetail;

namespace {

void write(Ints x) {
    int32_t lanes[kLanes];
    store_ints(lanes, x);
    std::fwrite(lanes, sizeof lanes, 1, stdout);
}

void write(Floats x) { write(bits(x)); }

void write_half(Floats x) {
    uint16_t half[kLanes];
    store_half(half, x);
    write(load_half(half));
    int32_t lanes[kLanes];
    for (int i = 0; i < kLanes; ++i) {
        lanes[i] = half[i];
    }
    write(load_ints(lanes));
}

// Four activations of -127 to 127, and 64 codes, of the bits of 16 values.
void write_dot4(const float *values) {
    uint8_t codes[4 * kLanes];
    std::memcpy(codes, values, sizeof codes);
    int8_t activations[4];
    int32_t total_of_four = 0;
    for (int i = 0; i < 4; ++i) {
        const int activation = codes[4 * i + 1] - 128;
        activations[i] = static_cast<int8_t>(activation < -127 ? -127 : activation);
        total_of_four += activations[i];
    }
    Ints dots = dot4_start(-128 * total_of_four);
    dot4(dots, load_codes(codes), load_fours(activations));
    write(dots);
}

// The same with the low and high halves of 64 bytes as codes.
void write_nibbles(const float *values) {
    uint8_t bytes[4 * kLanes];
    std::memcpy(bytes, values, sizeof bytes);
    int8_t activations[8];
    for (int i = 0; i < 8; ++i) {
        const int activation = bytes[4 * i + 1] - 128;
        activations[i] = static_cast<int8_t>(activation < -127 ? -127 : activation);
    }
    const NibblePair pair = load_nibbles(bytes);
    Ints dots = splat_int(3);
    dot4(dots, pair.low, load_fours(activations));
    dot4(dots, pair.high, load_fours(activations + 4));
    write(dots);
}

void write_all(const float *values) {
    const Floats x = load(values);
    float turned[kLanes];
    for (int i = 0; i < kLanes; ++i) {
        turned[i] = values[(i + 5) % kLanes];
    }
    const Floats y = load(turned);
    write(add(x, y));
    write(sub(x, y));
    write(mul(x, y));
    write(div(x, y));
    write(fma(x, y, x));
    write(root(x));
    write(absolute(x));
    write(select(less(x, y), x, y));
    write(select(first_lanes(5), bits(x), bits(y)));
    write(maximum(bits(x), bits(y)));
    write(add(bits(x), bits(y)));
    write(shift_left_23(bits(x)));
    const Ints rounded = round_to_ints(select(less(absolute(x), splat(4194304.0f)), x, zero()));
    write(to_floats(rounded));
    write(splat(sum(x)));
    write(splat_int(largest(bits(x))));
    write(splat_int(total(rounded)));
    write(splat_int(any(less(x, y)) ? 1 : 0));
    write(exp2(x));
    write(dovetail::exp(x));
    write(dovetail::tanh(x));
    write_half(x);
    write_dot4(values);
    write_nibbles(values);
    float part[kLanes] = {};
    store_first(part, load_first(values, 11), 7);
    write(load(part));
}

}  // namespace

int main() {
    float values[kLanes];
    const FloatingMode mode;
    while (std::fread(values, sizeof values, 1, stdin) == 1) {
        write_all(values);
    }
    return 0;
}
