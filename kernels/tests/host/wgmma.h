// Products of warpgroups, and what they ask of those who use them.
//
// Products are computed when they are waited for. Until then their sums are no numbers but say whose they are, and all that they
// read must stay as it is. What they read must have come by copies that their units have waited for, made visible to the
// products, and told of by a barrier.
#pragma once

namespace ptx {

const unsigned group_units = 128, chunks_max = 1 << 14, sets_max = 4, products_max = 16, sums_max = 128;

// A matrix in shared memory, as the bits of its descriptor say.
struct Matrix {
    unsigned start, leading, stride, width;

    explicit Matrix(unsigned long long bits) {
        const unsigned long long known = 0x3fffull | 0x3fffull << 16 | 0x3fffull << 32 | 7ull << 49 | 3ull << 62;
        if (bits & ~known) dream_stop("a descriptor with bits that mean nothing");
        start = (bits & 0x3fff) << 4, leading = (bits >> 16 & 0x3fff) << 4, stride = (bits >> 32 & 0x3fff) << 4;
        const unsigned widths[4] = {chunk, 128, 64, 32};
        width = widths[bits >> 62];
        if (bits >> 49 & 7) dream_stop("a descriptor whose pattern begins within itself");
        if (width == chunk) return;
        // What swizzles has no more columns than its width; a step along K begins in the pattern's first row.
        if (leading != chunk) dream_stop("a descriptor with a leading dimension that is not used");
        if (start / 128 % (width / chunk) != 0) dream_stop("a matrix that does not begin where its pattern does");
    }
    // Of 16 bytes of row `row`, of which an instruction has two.
    unsigned at(unsigned row, unsigned column) const {
        const unsigned first = start + row / 8 * stride + row % 8 * width;
        if (width == chunk) return first + column * leading;
        const unsigned logical = first + column * chunk;
        return logical ^ (logical / 128 % (width / chunk)) * chunk;
    }
};

// An instruction that was begun.
struct Product {
    unsigned long long a, b;
    unsigned n, group;
    void (*run)(const Product &, float *);
};

// Sums of a unit, and the products that are still to be added.
struct Sums {
    float values[sums_max];
    Product products[products_max];
    unsigned count, generation;
};

// Of a unit: what it has begun, and what it has made visible to products before each of its last two barriers.
struct Group {
    Sums sets[sets_max];
    unsigned next, group, barriers, fences, told[2];
    bool fenced;
};

// Of 16 bytes of shared memory: who copied to it, before which of its fences, and how many products read it.
struct Filled {
    unsigned unit, fences, readers;
    bool is;
};

inline __thread Group groups[units_max];
inline __thread Filled filled[chunks_max];
inline __thread unsigned long workgroup;

inline Filled &filled_at(unsigned at) {
    if (at / chunk >= chunks_max) dream_stop("shared memory that no device has");
    return filled[at / chunk];
}

inline void begin_group() {
    if (workgroup != dream_group()) {
        // The first unit of a workgroup; others have copied nothing yet.
        unsigned long bytes;
        dream_shared(&bytes);
        if (bytes / chunk >= chunks_max) dream_stop("shared memory that no device has");
        __builtin_memset(filled, 0, (bytes / chunk + 1) * sizeof *filled);
    }
    workgroup = dream_group();
    Group &own = groups[threadIdx.x];
    own.next = own.group = own.barriers = own.fences = own.told[0] = own.told[1] = 0;
    own.fenced = false;
    for (Sums &sums : own.sets) sums.count = 0;
}

inline void end_group() {
    for (const Sums &sums : groups[threadIdx.x].sets)
        if (sums.count > 0) dream_stop("a unit ends while it multiplies");
}

inline void copying(unsigned at) {
    if (filled_at(at).readers > 0) dream_stop("a copy over what products still read");
    filled_at(at).is = false;
}

inline void copied(unsigned at) {
    if (filled_at(at).readers > 0) dream_stop("a copy over what products still read");
    filled_at(at) = {threadIdx.x, groups[threadIdx.x].fences, 0, true};
}

inline void barrier(int line) {
    Group &own = groups[threadIdx.x];
    own.told[++own.barriers % 2] = own.fences;
    dream_barrier(line);
}

inline void proxy_fence(int) { groups[threadIdx.x].fences++; }

// Whether the unit may multiply what is there.
inline void visible(unsigned at) {
    const Filled &there = filled_at(at);
    const Group &own = groups[threadIdx.x];
    if (!there.is) dream_stop("products of what no copy has brought");
    if (groups[there.unit].told[own.barriers % 2] <= there.fences)
        dream_stop("products of a copy that was not made visible to them");
}

// Sums in flight are no numbers, and say where they will be.
inline unsigned token(const Group &group, unsigned set, unsigned i) {
    return 0x7fc00000u | (group.sets[set].generation & 0xfffu) << 9 | set << 7 | i;
}

inline int set_of(const Group &group, float x, unsigned i) {
    const unsigned set = bits_of(x) >> 7 & (sets_max - 1);
    return bits_of(x) == token(group, set, i) && group.sets[set].generation > 0 ? int(set) : -1;
}

template <typename T, unsigned n> void run(const Product &product, float *sums) {
    const unsigned unit = threadIdx.x % group_units, row = unit / 32 * 16 + unit % 32 / 4, quad = unit % 4;
    const unsigned in_chunk = chunk / 4 * T::in_word;
    const Matrix a(product.a), b(product.b);
    float x[2][2 * chunk], w[2 * chunk];
    const auto read = [&](const Matrix &of, unsigned row, float *to) {
        for (unsigned column = 0; column < 2; column++) {
            const unsigned *words = reinterpret_cast<const unsigned *>(shared(of.at(row, column)));
            for (unsigned j = 0; j < in_chunk; j++) *to++ = T::of(words[j / T::in_word], j % T::in_word);
        }
    };
    read(a, row, x[0]);
    read(a, row + 8, x[1]);
    for (unsigned column = 0; column < n / 4; column++) {
        read(b, column / 2 * 8 + quad * 2 + column % 2, w);
        for (unsigned below = 0; below < 2; below++) {
            float &sum = sums[column / 2 * 4 + below * 2 + column % 2];
            for (unsigned j = 0; j < 2 * in_chunk; j++) sum += x[below][j] * w[j];
        }
    }
}

// Says of the rows that are the unit's share that they are read, or are no more.
inline void read_by(const Product &product, int more) {
    const Matrix a(product.a), b(product.b);
    for (unsigned row = threadIdx.x % 32; row < 64; row += 32)
        for (unsigned column = 0; column < 2; column++) filled_at(a.at(row, column)).readers += more;
    for (unsigned row = threadIdx.x % 32; row < product.n; row += 32)
        for (unsigned column = 0; column < 2; column++) filled_at(b.at(row, column)).readers += more;
}

inline void group_fence(int) { groups[threadIdx.x].fenced = true; }

template <typename T, unsigned n>
void group_multiply(int line, float *const (&d)[n / 2], unsigned long long a, unsigned long long b, bool adds) {
    static_assert(n % 8 == 0 && n <= 256, "an instruction of 8 to 256 rows");
    Group &own = groups[threadIdx.x];
    dream_warp(line);
    // What is not added to may have been anything.
    int set = adds ? set_of(own, *d[0], 0) : -1;
    for (unsigned i = 0; i < n / 2 && adds; i++)
        if (set_of(own, *d[i], i) != set) dream_stop("sums that are touched while they are in flight");
    if (set < 0) {
        if (!own.fenced) dream_stop("registers of products without a fence");
        set = own.next++ % sets_max;
        Sums &sums = own.sets[set];
        if (sums.count > 0) dream_stop("too many sums in flight");
        sums.generation++;
        for (unsigned i = 0; i < n / 2; i++) {
            sums.values[i] = adds ? *d[i] : 0.0f;
            *d[i] = of_bits(token(own, set, i));
        }
    }
    Sums &sums = own.sets[set];
    if (sums.count == products_max) dream_stop("too many products that nobody waits for");
    Product &product = sums.products[sums.count++];
    product = {a, b, n, own.group, run<T, n>};
    const Matrix features(a), rows(b);
    for (unsigned row = threadIdx.x % 32; row < 64; row += 32)
        for (unsigned column = 0; column < 2; column++) visible(features.at(row, column));
    for (unsigned row = threadIdx.x % 32; row < n; row += 32)
        for (unsigned column = 0; column < 2; column++) visible(rows.at(row, column));
    read_by(product, 1);
}

inline void group_commit(int) { groups[threadIdx.x].group++; }

inline void group_wait(int, unsigned but) {
    Group &own = groups[threadIdx.x];
    for (Sums &sums : own.sets) {
        unsigned left = 0;
        for (unsigned i = 0; i < sums.count; i++) {
            const Product product = sums.products[i];
            if (product.group + but < own.group) {
                product.run(product, sums.values);
                read_by(product, -1);
            } else {
                sums.products[left++] = product;
            }
        }
        sums.count = left;
    }
    // From here on registers are anyone's.
    own.fenced = false;
}

// What has arrived is a number.
inline void move(float &d, float c, unsigned i) {
    Group &own = groups[threadIdx.x];
    const int set = set_of(own, c, i);
    d = set >= 0 && own.sets[set].count == 0 ? own.sets[set].values[i] : c;
    own.fenced = false;
}

} // namespace ptx
