/* Kernels whose names are known are computed, on the block's words and the buffers. Included by core.h.

   A module's image is the text `binary|text NAME BUFFERS WORDS`: a kernel's name, how many buffers it has, and how many
   words its block of scalars has. */
static int read_image(struct Module *module, const char *image) {
    char form[16];
    if (sscanf(image, "%15s %127s %d %d", form, module->name, &module->buffers, &module->words) != 4) return BAD_IMAGE;
    say("load %s %s", form, module->name);
    return 0;
}

static void forget(struct Module *module) { (void)module; }

static int compute(const struct Module *module, const struct Extent *extent, uint64_t *at, uint32_t *words) {
    (void)extent;
    const char *name = module->name;
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
    return 0;
}
