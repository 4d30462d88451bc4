/* Kernels that are computed, on the block's words and the buffers. Included by core.h. */
static void compute(const char *name, uint64_t *at, const uint32_t *words) {
    float *b0 = (float *)(uintptr_t)at[0], *b1 = (float *)(uintptr_t)at[1], *b2 = (float *)(uintptr_t)at[2];
    if (!strcmp(name, "f32_scale")) {
        /* rows, first column, lengths of x, a part of the gains, y */
        uint32_t rows = words[0], first = words[1], columns = words[2] / rows;
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t c = 0; c < words[3]; c++)
                b2[r * columns + first + c] = b0[r * columns + first + c] * b1[c];
    } else if (!strcmp(name, "f32_add_inplace")) {
        for (uint32_t i = 0; i < words[0]; i++) b0[i] += b1[i];
    } else if (!strcmp(name, "f32_copy")) {
        for (uint32_t i = 0; i < words[0]; i++) b1[i] = b0[i];
    } else if (!strcmp(name, "f32_index")) {
        for (uint32_t i = 0; i < words[1]; i++) b1[i] = (float)*(int32_t *)b0;
    }
}
