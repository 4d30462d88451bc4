/* The driver's functions by HIP's names, over the stub that both drivers share. Defines: WITHOUT_GRAPHS for a library
   that records nothing, WITHOUT_PROPERTIES for one that does not tell the processor. */
#include "core.h"

typedef uint64_t Handle;

int hipInit(unsigned flags) { ENTER_EARLY("hipInit"); return flags; }
const char *hipGetErrorName(int code) {
    static char name[64];
    snprintf(name, sizeof name, "HIP_ERROR_%s", name_of_error(code));
    return name;
}
const char *hipGetErrorString(int code) { return code == NO_MEMORY ? "out of memory" : "refused"; }
int hipGetDeviceCount(int *count) { *count = devices; return devices ? 0 : NO_DEVICE; }
int hipDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < devices ? 0 : BAD_DEVICE; }
int hipDeviceGetName(char *name, int len, int device) { snprintf(name, len, "Stub %d", device); return 0; }
int hipDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case 29: *value = 0x7fffffff; return 0;
    case 30: case 31: *value = 65536; return 0;
    case 74: *value = 64 * 1024; return 0;
    default: return BAD_VALUE;
    }
}
#ifndef WITHOUT_PROPERTIES
int hipGetDevicePropertiesR0600(void *properties, int device) {
    memset(properties, 0, 1472);
    snprintf(properties, 256, "Stub %d", device);
    snprintf((char *)properties + 1160, 256, "%s", arch_name);
    return 0;
}
#endif
int hipSetDevice(int device) {
    ENTER_EARLY("hipSetDevice");
    current = device < devices;
    return current ? 0 : BAD_DEVICE;
}
int hipStreamCreateWithFlags(Handle *stream, unsigned flags) {
    ENTER("hipStreamCreateWithFlags");
    return flags == 1 ? new_stream(stream) : misuse("stream");
}
int hipStreamDestroy(Handle stream) { LOCK; STREAM_OF(stream); return destroy_stream(s); }
int hipStreamSynchronize(Handle stream) { ENTER("hipStreamSynchronize"); STREAM_OF(stream); return synchronize(s); }
int hipMalloc(Handle *at, size_t bytes) { ENTER("hipMalloc"); return take(at, bytes); }
int hipFree(Handle at) { ENTER("hipFree"); return give_back(at); }
int hipMemGetInfo(size_t *free_bytes, size_t *total) { ENTER("hipMemGetInfo"); return free_memory(free_bytes, total); }
int hipHostMalloc(void **at, size_t bytes, unsigned flags) {
    (void)flags;
    ENTER("hipHostMalloc");
    return take_pinned(at, bytes);
}
int hipHostFree(void *at) { ENTER("hipHostFree"); return give_back_pinned(at); }
int hipMemcpyHtoDAsync(Handle to, const void *from, size_t bytes, Handle stream) {
    ENTER("hipMemcpyHtoDAsync");
    STREAM_OF(stream);
    return copy_in(s, to, from, bytes);
}
int hipMemcpyDtoHAsync(void *to, Handle from, size_t bytes, Handle stream) {
    ENTER("hipMemcpyDtoHAsync");
    STREAM_OF(stream);
    return copy_out(s, to, from, bytes);
}
int hipMemcpyDtoDAsync(Handle to, Handle from, size_t bytes, Handle stream) {
    ENTER("hipMemcpyDtoDAsync");
    STREAM_OF(stream);
    return copy(s, to, from, bytes);
}
int hipMemsetD32Async(Handle to, int word, size_t words, Handle stream) {
    ENTER("hipMemsetD32Async");
    STREAM_OF(stream);
    return fill(s, to, (uint32_t)word, words);
}
int hipEventCreateWithFlags(Handle *event, unsigned flags) {
    ENTER("hipEventCreateWithFlags");
    return flags == 2 ? new_event(event) : misuse("event");
}
int hipEventRecord(Handle event, Handle stream) { ENTER("hipEventRecord"); STREAM_OF(stream); return record_event(event, s); }
int hipEventSynchronize(Handle event) { ENTER("hipEventSynchronize"); return wait_for_event(event); }
int hipEventDestroy(Handle event) { LOCK; return destroy_event(event); }
int hipModuleLoadData(Handle *module, const void *image) { ENTER("hipModuleLoadData"); return load(module, image); }
int hipModuleUnload(Handle module) { LOCK; return unload(module); }
int hipModuleGetFunction(Handle *made, Handle module, const char *name) {
    ENTER("hipModuleGetFunction");
    /* No attribute is needed here for more shared memory. */
    int code = function(made, module, name);
    if (!code) modules[*made - 1].shared = 1;
    return code;
}
int hipModuleLaunchKernel(Handle function, unsigned gx, unsigned gy, unsigned gz, unsigned x, unsigned y, unsigned z,
                          unsigned shared, Handle stream, void **arguments, void **extra) {
    ENTER("hipModuleLaunchKernel");
    STREAM_OF(stream);
    unsigned grid[3] = {gx, gy, gz}, block[3] = {x, y, z};
    return extra ? misuse("extra") : launch(s, function, grid, block, shared, arguments, 1);
}
#ifndef WITHOUT_GRAPHS
int hipStreamBeginCapture(Handle stream, int mode) {
    ENTER("hipStreamBeginCapture");
    STREAM_OF(stream);
    return mode == 1 ? begin(s) : misuse("mode");
}
int hipStreamEndCapture(Handle stream, Handle *graph) {
    LOCK;
    STREAM_OF(stream);
    int code = enter("hipStreamEndCapture", 1);
    s->broken |= code;
    return code ? (end(s, graph), code) : end(s, graph);
}
int hipGraphInstantiate(Handle *made, Handle graph, void *node, char *text, size_t len) {
    ENTER("hipGraphInstantiate");
    return node || text || len ? misuse("log") : instantiate(made, graph);
}
int hipGraphLaunch(Handle executable, Handle stream) { ENTER("hipGraphLaunch"); STREAM_OF(stream); return run(s, executable); }
int hipGraphExecDestroy(Handle executable) { LOCK; return destroy(executable); }
int hipGraphDestroy(Handle graph) { LOCK; return destroy_graph(graph); }
#endif
