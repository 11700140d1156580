// All kernels of one level. The build compiles this file once for each, with -DDOVETAIL_LEVEL=<name> and its
// instructions. Everything but the table has internal linkage, and nothing inline comes from a library: else the linker
// could give one level's code to another.
#include "attention.h"
#include "embedding.h"
#include "norm.h"
#include "product.h"

#define DOVETAIL_TABLE(level) DOVETAIL_PASTE(kernels_, level)
#define DOVETAIL_TEXT(name) #name
#define DOVETAIL_NAME(level) DOVETAIL_TEXT(level)

namespace dovetail {

extern const Kernels DOVETAIL_TABLE(DOVETAIL_LEVEL);

const Kernels DOVETAIL_TABLE(DOVETAIL_LEVEL) = {DOVETAIL_NAME(DOVETAIL_LEVEL), product, norm, embedding, attention};

}  // namespace dovetail
