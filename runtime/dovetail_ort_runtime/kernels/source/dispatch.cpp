#include "dispatch.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "processor.h"

namespace dovetail {

// A compiler may not know the instructions of a level: the build says which ones are left out.
#if defined(DOVETAIL_X86) && !defined(DOVETAIL_WITHOUT_AVXVNNI)
#define DOVETAIL_HAS_AVXVNNI
#endif
#if defined(DOVETAIL_X86) && defined(__linux__) && !defined(DOVETAIL_WITHOUT_AMX)
#define DOVETAIL_HAS_AMX
#endif

// Each is defined in level.cpp, which the build compiles once for each level.
extern const Kernels kernels_portable;
#if defined(DOVETAIL_X86)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512vnni;
#if defined(DOVETAIL_HAS_AVXVNNI)
extern const Kernels kernels_avxvnni;
#endif
#if defined(DOVETAIL_HAS_AMX)
extern const Kernels kernels_avx512amx;
#endif
#elif defined(DOVETAIL_ARM64)
extern const Kernels kernels_neon;
#endif

namespace {

constexpr size_t kMaxLevels = 5;

struct Levels {
    const Kernels *usable[kMaxLevels + 1] = {};
    size_t count = 0;

    Levels() {
#if defined(DOVETAIL_X86)
#if defined(DOVETAIL_HAS_AMX)
        add(kernels_avx512amx, processor_has_avx512amx());
#endif
        add(kernels_avx512vnni, processor_has_avx512vnni());
#if defined(DOVETAIL_HAS_AVXVNNI)
        add(kernels_avxvnni, processor_has_avxvnni());
#endif
        add(kernels_avx2, processor_has_avx2());
#elif defined(DOVETAIL_ARM64)
        add(kernels_neon, processor_has_dot_product());
#endif
        add(kernels_portable, true);
    }

    void add(const Kernels &kernels, bool is_usable) {
        if (is_usable) {
            usable[count] = &kernels;
            ++count;
        }
    }
};

const Levels &levels() {
    static const Levels found;
    return found;
}

struct Choice {
    const Kernels *kernels = nullptr;
    char error[256] = {};

    Choice() {
        const char *wanted = std::getenv("DOVETAIL_KERNELS");
        if (wanted == nullptr || wanted[0] == '\0') {
            kernels = levels().usable[0];
            return;
        }
        char names[128] = {};
        for (size_t i = 0; i < levels().count; ++i) {
            const Kernels *level = levels().usable[i];
            if (std::strcmp(level->name, wanted) == 0) {
                kernels = level;
                return;
            }
            std::strcat(names, i == 0 ? "" : ", ");
            std::strcat(names, level->name);
        }
        std::snprintf(error, sizeof error,
                      "DOVETAIL_KERNELS must be one of %s on this processor, got %.40s; set one of them or unset it.",
                      names, wanted);
    }
};

}  // namespace

const Kernels *const *usable_kernels() { return levels().usable; }

const Kernels *chosen_kernels(const char **error) {
    static const Choice choice;
    if (choice.kernels == nullptr) {
        *error = choice.error;
    }
    return choice.kernels;
}

}  // namespace dovetail
