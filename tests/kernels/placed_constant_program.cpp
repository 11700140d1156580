// Constants whose kernels outlive the memory that they were read from. Exit status 0 if each kept its own numbers.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "placed_constant.h"

using dovetail::PlacedConstant;

namespace {

bool is_filled(const PlacedConstant &constant, uint8_t value, size_t bytes) {
    return std::vector<uint8_t>(bytes, value) == std::vector<uint8_t>(constant.data(), constant.data() + bytes);
}

bool expect(bool condition, const char *what) {
    if (!condition) {
        std::printf("%s\n", what);
    }
    return condition;
}

}  // namespace

int main() {
    constexpr size_t bytes = 5000;
    std::vector<uint8_t> memory(bytes, 1);
    auto first = std::make_unique<PlacedConstant>(memory.data(), bytes);
    const PlacedConstant tied(memory.data(), bytes);
    bool right = expect(tied.data() == first->data(), "owners of one constant must share a copy");

    std::memset(memory.data(), 2, bytes);  // the address belongs to another constant now
    const PlacedConstant second(memory.data(), bytes);
    right &= expect(is_filled(second, 2, bytes), "a constant at an address that was another's must have its own bytes");
    right &= expect(is_filled(tied, 1, bytes), "a copy must stay as it is when its address is used again");

    const PlacedConstant shorter(memory.data(), bytes / 2);
    right &= expect(is_filled(shorter, 2, bytes / 2), "a shorter constant at the address must have its own length");
    first.reset();
    right &= expect(is_filled(tied, 1, bytes), "a copy must stay as long as one of its owners");
    return right ? 0 : 1;
}
