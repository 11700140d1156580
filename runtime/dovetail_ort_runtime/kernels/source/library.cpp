// What the library exports: RegisterCustomOps for ONNX Runtime, and what Python asks it by ctypes.

#include <cstdio>
#include <mutex>
#include <string>

#include "dispatch.h"
#include "operators.h"
#include "status.h"

#if defined(_WIN32)
#define DOVETAIL_EXPORT extern "C" __declspec(dllexport)
#else
#define DOVETAIL_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace dovetail {

namespace {

// A status is made through version 1, which every ONNX Runtime has.
OrtStatus *refuse(const OrtApiBase *base) {
    char line[200];
    std::snprintf(line, sizeof line,
                  "onnxruntime must be 1.17 or newer, got %.40s; run: pip install --upgrade onnxruntime",
                  base->GetVersionString());
    return base->GetApi(1)->CreateStatus(ORT_FAIL, line);
}

void add(OrtCustomOpDomain *domain, const Operators &operators) {
    for (size_t index = 0; index < operators.count; index++) {
        check(api->CustomOpDomain_Add(domain, operators.first + index));
    }
}

// Made once and never released: sessions point to it and to its operators.
OrtCustomOpDomain *make_domain() {
    const char *error = nullptr;
    kernels = chosen_kernels(&error);
    if (kernels == nullptr) {
        fail("%s", error);
    }
    OrtCustomOpDomain *domain = nullptr;
    check(api->CreateCustomOpDomain(kDomain, &domain));
    add(domain, product_operators());
    add(domain, norm_operators());
    add(domain, embedding_operators());
    add(domain, attention_operators());
    return domain;
}

std::string level_names() {
    std::string names;
    for (const Kernels *const *level = usable_kernels(); *level != nullptr; level++) {
        names += (names.empty() ? "" : " ") + std::string((*level)->name);
    }
    return names;
}

}  // namespace

}  // namespace dovetail

DOVETAIL_EXPORT OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    using namespace dovetail;
    const OrtApi *found = base->GetApi(kOrtApiVersion);
    if (found == nullptr) {
        return refuse(base);
    }
    static std::mutex mutex;
    static OrtCustomOpDomain *domain = nullptr;
    const std::lock_guard<std::mutex> lock(mutex);
    if (domain == nullptr) {
        api = found;  // kernels that run read it without the lock; it is the same at every registration
    }
    return guarded([&] {
        if (domain == nullptr) {
            domain = make_domain();
        }
        check(api->AddCustomOpDomain(options, domain));
    });
}

// The level that runs here, or the reason why there is none.
DOVETAIL_EXPORT const char *dovetail_level(int *is_error) {
    const char *error = nullptr;
    const dovetail::Kernels *chosen = dovetail::chosen_kernels(&error);
    *is_error = chosen == nullptr;
    return chosen == nullptr ? error : chosen->name;
}

// The levels that could run here, the fastest one first, with a space between them.
DOVETAIL_EXPORT const char *dovetail_levels() {
    static const std::string names = dovetail::level_names();
    return names.c_str();
}

DOVETAIL_EXPORT int dovetail_operator_version() { return dovetail::kOperatorVersion; }

DOVETAIL_EXPORT const char *dovetail_library_version() { return DOVETAIL_VERSION; }
