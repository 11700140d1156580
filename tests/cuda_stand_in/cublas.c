/* cuBLAS and cuBLASLt of the stand-in: products are counted, not computed. One source, a library for each prefix. */
#include <stdlib.h>

void stand_in_note(const char *format, ...);

#define HANDLE(name)           \
    int name(void **created) { \
        *created = malloc(1);  \
        return 0;              \
    }
#define DROP(name)            \
    int name(void *created) { \
        free(created);        \
        return 0;             \
    }
#define SETTING(name) \
    int name(void) { return 0; }
#define PRODUCT(name)                    \
    int name(void) {                     \
        stand_in_note("product " #name); \
        return 0;                        \
    }

HANDLE(cublasCreate_v2)
DROP(cublasDestroy_v2)
SETTING(cublasSetStream_v2)
SETTING(cublasSetMathMode)
PRODUCT(cublasGemmEx)
PRODUCT(cublasGemmBatchedEx)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasSgemmBatched)
PRODUCT(cublasSgemmStridedBatched)

int cublasGetMathMode(void *handle, int *mode) {
    *mode = 0;
    return 0;
}

const char *cublasGetStatusName(int status) { return "CUBLAS_STATUS_OF_STAND_IN"; }
const char *cublasGetStatusString(int status) { return "the stand-in of cuBLAS does not have this"; }

HANDLE(cublasLtCreate)
DROP(cublasLtDestroy)
HANDLE(cublasLtMatmulDescCreate)
DROP(cublasLtMatmulDescDestroy)
SETTING(cublasLtMatmulDescSetAttribute)
HANDLE(cublasLtMatmulPreferenceCreate)
DROP(cublasLtMatmulPreferenceDestroy)
SETTING(cublasLtMatmulPreferenceSetAttribute)
HANDLE(cublasLtMatrixLayoutCreate)
DROP(cublasLtMatrixLayoutDestroy)
SETTING(cublasLtMatrixLayoutSetAttribute)
PRODUCT(cublasLtMatmul)

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *product, void *a, void *b, void *c, void *d, void *preference,
                                   int wanted, void *results, int *found) {
    *found = 1;
    return 0;
}
