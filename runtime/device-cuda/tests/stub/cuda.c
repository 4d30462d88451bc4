/* The driver's functions by CUDA's names, over the stub that both drivers share. Defines: WITHOUT_FUNC_LOAD for a
   driver older than CUDA 12.4. */
#include "core.h"

typedef uint64_t Handle;

int cuInit(unsigned flags) { ENTER_EARLY("cuInit"); return flags; }
int cuGetErrorName(int code, const char **text) {
    static char name[64];
    snprintf(name, sizeof name, "CUDA_ERROR_%s", name_of_error(code));
    *text = name;
    return 0;
}
int cuGetErrorString(int code, const char **text) { *text = code == NO_MEMORY ? "out of memory" : "refused"; return 0; }
int cuDriverGetVersion(int *version) { ENTER_EARLY("cuDriverGetVersion"); *version = driver_version; return 0; }
int cuDeviceGetCount(int *count) { ENTER_EARLY("cuDeviceGetCount"); *count = devices; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return ordinal < devices ? 0 : BAD_DEVICE; }
int cuDeviceGetName(char *name, int len, int device) {
    snprintf(name, len, "Stub %d", device - 40);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case 5: *value = 0x7fffffff; return 0;
    case 6: case 7: *value = 65535; return 0;
    case 75: *value = capability_major; return 0;
    case 76: *value = capability_minor; return 0;
    case 97: *value = 99 * 1024; return 0;
    default: return BAD_VALUE;
    }
}
int cuDevicePrimaryCtxRetain(Handle *context, int device) {
    ENTER_EARLY("cuDevicePrimaryCtxRetain");
    say("context of device %d", device - 40);
    *context = 55;
    live[CONTEXT]++;
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) { LOCK; (void)device; live[CONTEXT]--; current = 0; return 0; }
int cuCtxSetCurrent(Handle context) { ENTER_EARLY("cuCtxSetCurrent"); current = context == 55; return 0; }
int cuStreamCreate(Handle *stream, unsigned flags) {
    ENTER("cuStreamCreate");
    return flags == 1 ? new_stream(stream) : misuse("stream");
}
int cuStreamDestroy_v2(Handle stream) { LOCK; STREAM_OF(stream); return destroy_stream(s); }
int cuStreamSynchronize(Handle stream) { ENTER("cuStreamSynchronize"); STREAM_OF(stream); return synchronize(s); }
int cuMemAlloc_v2(Handle *at, size_t bytes) { ENTER("cuMemAlloc_v2"); return take(at, bytes); }
int cuMemFree_v2(Handle at) { ENTER("cuMemFree_v2"); return give_back(at); }
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) { ENTER("cuMemGetInfo_v2"); return free_memory(free_bytes, total); }
int cuMemHostAlloc(void **at, size_t bytes, unsigned flags) {
    (void)flags;
    ENTER("cuMemHostAlloc");
    return take_pinned(at, bytes);
}
int cuMemFreeHost(void *at) { ENTER("cuMemFreeHost"); return give_back_pinned(at); }
int cuMemcpyHtoDAsync_v2(Handle to, const void *from, size_t bytes, Handle stream) {
    ENTER("cuMemcpyHtoDAsync_v2");
    STREAM_OF(stream);
    return copy_in(s, to, from, bytes);
}
int cuMemcpyDtoHAsync_v2(void *to, Handle from, size_t bytes, Handle stream) {
    ENTER("cuMemcpyDtoHAsync_v2");
    STREAM_OF(stream);
    return copy_out(s, to, from, bytes);
}
int cuMemcpyDtoDAsync_v2(Handle to, Handle from, size_t bytes, Handle stream) {
    ENTER("cuMemcpyDtoDAsync_v2");
    STREAM_OF(stream);
    return copy(s, to, from, bytes);
}
int cuMemsetD32Async(Handle to, unsigned word, size_t words, Handle stream) {
    ENTER("cuMemsetD32Async");
    STREAM_OF(stream);
    return fill(s, to, word, words);
}
int cuEventCreate(Handle *event, unsigned flags) {
    ENTER("cuEventCreate");
    return flags == 2 ? new_event(event) : misuse("event");
}
int cuEventRecord(Handle event, Handle stream) { ENTER("cuEventRecord"); STREAM_OF(stream); return record_event(event, s); }
int cuEventSynchronize(Handle event) { ENTER("cuEventSynchronize"); return wait_for_event(event); }
int cuEventDestroy_v2(Handle event) { LOCK; return destroy_event(event); }
int cuModuleLoadDataEx(Handle *module, const void *image, unsigned count, int *options, void **values) {
    LOCK;
    int code = enter("cuModuleLoadDataEx", 1);
    if (code && count == 2 && options[0] == 5 && options[1] == 6)
        snprintf(values[0], (size_t)values[1], "ptxas: line 7 is wrong\n");
    return code ? code : load(module, image);
}
int cuModuleUnload(Handle module) { LOCK; return unload(module); }
int cuModuleGetFunction(Handle *made, Handle module, const char *name) {
    ENTER("cuModuleGetFunction");
    return function(made, module, name);
}
#ifndef WITHOUT_FUNC_LOAD
int cuFuncLoad(Handle function) { ENTER("cuFuncLoad"); say("finish %s", modules[function - 1].name); return 0; }
#endif
int cuFuncSetAttribute(Handle function, int attribute, int value) {
    ENTER("cuFuncSetAttribute");
    return attribute == 8 ? allow_shared(function, value) : misuse("attribute");
}
int cuLaunchKernel(Handle function, unsigned gx, unsigned gy, unsigned gz, unsigned x, unsigned y, unsigned z,
                   unsigned shared, Handle stream, void **arguments, void **extra) {
    ENTER("cuLaunchKernel");
    STREAM_OF(stream);
    unsigned grid[3] = {gx, gy, gz}, block[3] = {x, y, z};
    return extra ? misuse("extra") : launch(s, function, grid, block, shared, arguments, 0);
}
int cuStreamBeginCapture_v2(Handle stream, int mode) {
    ENTER("cuStreamBeginCapture_v2");
    STREAM_OF(stream);
    return mode == 1 ? begin(s) : misuse("mode");
}
int cuStreamEndCapture(Handle stream, Handle *graph) {
    LOCK;
    STREAM_OF(stream);
    int code = enter("cuStreamEndCapture", 1);
    s->broken |= code;
    return code ? (end(s, graph), code) : end(s, graph);
}
int cuGraphInstantiateWithFlags(Handle *made, Handle graph, uint64_t flags) {
    ENTER("cuGraphInstantiateWithFlags");
    return flags ? misuse("flags") : instantiate(made, graph);
}
int cuGraphUpload(Handle executable, Handle stream) {
    ENTER("cuGraphUpload");
    STREAM_OF(stream);
    return upload(s, executable);
}
int cuGraphLaunch(Handle executable, Handle stream) { ENTER("cuGraphLaunch"); STREAM_OF(stream); return run(s, executable); }
int cuGraphExecDestroy(Handle executable) { LOCK; return destroy(executable); }
int cuGraphDestroy(Handle graph) { LOCK; return destroy_graph(graph); }
