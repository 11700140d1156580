// Errors of the operators: thrown as Failure inside, handed to ONNX Runtime as a status at the boundary.
#pragma once

#include <new>

#include "onnxruntime_interface.h"

namespace dovetail {

// ONNX Runtime's calls; set when the library is registered.
extern const OrtApi *api;

struct Failure {
    OrtStatus *status;
};

// Throws one line for the user: "<what> must be <rule>, got <value>; <what to do next>".
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
[[noreturn]] void
fail(const char *format, ...);

// Throws what a call of ONNX Runtime reports.
inline void check(OrtStatus *status) {
    if (status != nullptr) {
        throw Failure{status};
    }
}

// Runs the work and returns the status of what it throws: nothing is thrown across the C boundary.
template <class Work>
OrtStatus *guarded(Work work) noexcept {
    try {
        work();
        return nullptr;
    } catch (const Failure &failure) {
        return failure.status;
    } catch (const std::bad_alloc &) {
        return api->CreateStatus(ORT_FAIL, "memory must hold what the operator needs, got none; load a smaller model");
    } catch (...) {
        return api->CreateStatus(ORT_FAIL,
                                 "an operator failed for an unknown reason; report it with the bundle's name");
    }
}

}  // namespace dovetail
