// Every task runs with the same floating-point mode: rounding to nearest even, subnormal numbers kept, nothing trapped.
//
// The thread belongs to a host program, which may have changed its mode; it gets it back.
#pragma once

#include "lanes.h"

#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
#elif defined(_MSC_VER)
#include <intrin.h>
#endif

namespace dovetail {
namespace {

#if defined(__SSE2__) || defined(_M_X64)

using ModeBits = uint32_t;
constexpr ModeBits kDefaultMode = 0x1f80;  // all exceptions masked, nothing else set

DOVETAIL_INLINE ModeBits read_mode() { return _mm_getcsr(); }

DOVETAIL_INLINE void write_mode(ModeBits mode) { _mm_setcsr(mode); }

#elif defined(__aarch64__) || defined(_M_ARM64)

using ModeBits = uint64_t;
constexpr ModeBits kDefaultMode = 0;

#if defined(_MSC_VER) && !defined(__clang__)

DOVETAIL_INLINE ModeBits read_mode() { return static_cast<ModeBits>(_ReadStatusReg(ARM64_FPCR)); }

DOVETAIL_INLINE void write_mode(ModeBits mode) { _WriteStatusReg(ARM64_FPCR, static_cast<__int64>(mode)); }

#else

DOVETAIL_INLINE ModeBits read_mode() {
    ModeBits mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}

DOVETAIL_INLINE void write_mode(ModeBits mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }

#endif
#endif

class FloatingMode {
  public:
    FloatingMode() : before_(read_mode()) { write_mode(kDefaultMode); }

    ~FloatingMode() { write_mode(before_); }

    FloatingMode(const FloatingMode &) = delete;
    FloatingMode &operator=(const FloatingMode &) = delete;

  private:
    ModeBits before_;
};

// A call of its own, so that no operation moves out of the mode that it needs.
template <class Work>
DOVETAIL_NOINLINE void call(const Work &work, size_t index) {
    work(index);
}

template <class Work>
void run_task(void *data, size_t index) {
    const FloatingMode mode;
    call(*static_cast<const Work *>(data), index);
}

// Runs work(0) to work(count - 1) on any threads.
template <class Work>
void run_parallel(const Pool &pool, size_t count, const Work &work) {
    pool.run(pool.self, count, run_task<Work>, const_cast<Work *>(&work));
}

// The same on the calling thread.
template <class Work>
void run_here(size_t count, const Work &work) {
    const FloatingMode mode;
    for (size_t i = 0; i < count; ++i) {
        call(work, i);
    }
}

// Runs them on any threads where there is work for more than one.
template <class Work>
void run_items(const Pool &pool, bool parallel, int64_t count, const Work &work) {
    if (parallel && count > 1) {
        run_parallel(pool, static_cast<size_t>(count), work);
    } else {
        run_here(static_cast<size_t>(count), work);
    }
}

}  // namespace
}  // namespace dovetail
