#include <cstdint>
#include <cstdlib>

#include "kernels.h"

namespace dovetail {
namespace {

// Grows to the largest size that was asked for, and is kept until the thread ends.
class Scratch {
  public:
    Scratch() = default;
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;

    ~Scratch() { std::free(memory_); }

    void *at_least(size_t bytes) {
        if (bytes > size_) {
            grow(bytes);
        }
        if (bytes > size_) {
            return nullptr;
        }
        const uintptr_t address = reinterpret_cast<uintptr_t>(memory_);
        const uintptr_t aligned = (address + kAlignment - 1) / kAlignment * kAlignment;
        return reinterpret_cast<void *>(aligned);
    }

  private:
    static constexpr size_t kAlignment = 64;
    static constexpr size_t kLeast = 1 << 16;

    void grow(size_t bytes) {
        std::free(memory_);
        memory_ = nullptr;
        size_ = 0;
        const size_t wanted = bytes < kLeast ? kLeast : bytes;
        if (wanted > SIZE_MAX - kAlignment) {
            return;
        }
        memory_ = std::malloc(wanted + kAlignment);
        if (memory_ != nullptr) {
            size_ = wanted;
        }
    }

    void *memory_ = nullptr;
    size_t size_ = 0;
};

thread_local Scratch scratch_of_calls;
thread_local Scratch scratch_of_tasks;

}  // namespace

void *call_scratch(size_t bytes) { return scratch_of_calls.at_least(bytes); }

void *task_scratch(size_t bytes) { return scratch_of_tasks.at_least(bytes); }

}  // namespace dovetail
