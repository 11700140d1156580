#include "status.h"

#include <cstdarg>
#include <cstdio>

namespace dovetail {

const OrtApi *api = nullptr;

void fail(const char *format, ...) {
    char line[600];
    va_list values;
    va_start(values, format);
    std::vsnprintf(line, sizeof line, format, values);
    va_end(values);
    throw Failure{api->CreateStatus(ORT_INVALID_ARGUMENT, line)};
}

}  // namespace dovetail
