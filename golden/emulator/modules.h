/* Kernels that are libraries of the host: the stubs of `runtime/device-gpu/tests/stub` with this as KERNELS are drivers
   that run an artifact's own kernels. BACKWARDS is whether units run from the last to the first.

   A module's image is `HOSTCODE`, the bytes of a library as 8 bytes, the lowest first, and the library. */
#include <dlfcn.h>
#include <stdbool.h>
#include <unistd.h>
#include "run.h"

const char *dream_run(const struct Run *given);

struct Loaded { void *library; const struct Kernel *kernel; };

/* A file under a name that was never used: the loader knows libraries by their names. */
static void *open_library(const char *bytes, size_t len) {
    char path[] = "/tmp/dream-kernel-XXXXXX";
    int file = mkstemp(path);
    if (file < 0) return NULL;
    size_t written = 0;
    while (written < len) {
        ssize_t n = write(file, bytes + written, len - written);
        if (n <= 0) break;
        written += (size_t)n;
    }
    close(file);
    void *library = written == len ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) fprintf(stderr, "%s\n", dlerror());
    unlink(path);
    return library;
}

static int read_image(struct Module *module, const char *image) {
    if (memcmp(image, "HOSTCODE", 8)) return BAD_IMAGE;
    uint64_t len = 0;
    for (int i = 7; i >= 0; i--) len = len << 8 | (unsigned char)image[8 + i];
    void *library = open_library(image + 16, len);
    if (!library) return BAD_IMAGE;
    const struct Kernel *kernel = dlsym(library, "dream_kernel");
    if (!kernel || kernel->buffers > BUFFERS_MAX || kernel->words > WORDS_MAX) return BAD_IMAGE;
    snprintf(module->name, sizeof module->name, "%s", kernel->name);
    module->buffers = (int)kernel->buffers;
    module->words = (int)kernel->words;
    struct Loaded *loaded = malloc(sizeof *loaded);
    loaded->library = library;
    loaded->kernel = kernel;
    module->state = loaded;
    say("load %s", module->name);
    return 0;
}

static void forget(struct Module *module) {
    struct Loaded *loaded = module->state;
    dlclose(loaded->library);
    free(loaded);
}

static int compute(const struct Module *module, const struct Extent *extent, uint64_t *at, uint32_t *words) {
    const struct Kernel *kernel = ((struct Loaded *)module->state)->kernel;
    struct Buffer buffers[BUFFERS_MAX];
    for (int i = 0; i < module->buffers; i++) buffers[i] = (struct Buffer){(unsigned char *)(uintptr_t)at[i], 0};
    size_t guard = kernel->shared ? SHARED_GUARD_BYTES : 0;
    struct Run run = {
        .unit = kernel->unit,
        .buffers = buffers,
        .count = kernel->buffers,
        .info = {(unsigned char *)words, 4 * kernel->words},
        .shared = {kernel->shared, kernel->shared_bytes + guard},
        .backwards = BACKWARDS,
        .barriers = kernel->barriers,
        .in_place = true,
    };
    memcpy(run.grid, extent->grid, sizeof run.grid);
    memcpy(run.block, extent->block, sizeof run.block);
    const char *wrong = dream_run(&run);
    if (memcmp(run.block, kernel->block, sizeof run.block)) wrong = "another workgroup than the kernel is for";
    if (extent->shared != kernel->shared_bytes) wrong = "other shared memory than the kernel is for";
    for (size_t i = 0; i < guard; i++)
        if (kernel->shared[kernel->shared_bytes + i] != 0xff) wrong = "memory behind the shared memory is written";
    if (!wrong) return 0;
    say("%s: %s", module->name, wrong);
    fprintf(stderr, "%s: %s\n", module->name, wrong);
    return 719;
}
