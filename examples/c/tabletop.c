/*
 * Drives the simulated robot of examples/tabletop with a compiled policy, through dream.h alone.
 *
 *     cargo build --release --locked -p dream-capi
 *     cc -std=c11 -O2 -I runtime/capi examples/c/tabletop.c -o tabletop -L target/release -ldream -lm
 *     LD_LIBRARY_PATH=target/release ./tabletop tabletop.dream 10
 *
 * or, with the library inside of the program:
 *
 *     cc -std=c11 -O2 -I runtime/capi examples/c/tabletop.c -o tabletop target/release/libdream.a -lpthread -lm -ldl
 *     ./tabletop tabletop.dream 10
 *
 * tabletop.dream is golden/fixtures/tabletop-vla/checkpoint, built with
 * `dreamc build golden/fixtures/tabletop-vla/checkpoint -o tabletop.dream --chunk 5 --steps 1 --dtype f32`.
 * What scenes, frames and episodes are says golden/fixtures/tabletop-vla/tabletop.md.
 */
#include "dream.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { SIDE = 112, BLOCKS = 3, ACTION_DIM = 7, QUERIES_MAX = 6, STEP_MAX = 10, TOLERANCE = 6, FIRST_SEED = 1000 };

typedef struct point {
    int x, y;
} point;

typedef struct scene {
    point blocks[BLOCKS];
    point grip;
    int target;
    bool grab;
} scene;

static const char *const COLOUR_NAMES[BLOCKS] = {"red", "green", "blue"};
static const uint8_t COLOURS[BLOCKS][3] = {{216, 40, 40}, {40, 184, 56}, {48, 80, 232}};

/* splitmix64 */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static point random_point(uint64_t *state) {
    point p;
    p.x = 12 + (int)(next_random(state) % 88);
    p.y = 12 + (int)(next_random(state) % 88);
    return p;
}

/* The larger of the distances on both axes. */
static int distance(point a, point b) {
    int x = abs(a.x - b.x), y = abs(a.y - b.y);
    return x > y ? x : y;
}

static scene new_scene(uint64_t seed) {
    scene s;
    for (int block = 0; block < BLOCKS; block++) {
        bool clear;
        do {
            s.blocks[block] = random_point(&seed);
            clear = true;
            for (int other = 0; other < block; other++)
                clear = clear && distance(s.blocks[block], s.blocks[other]) >= 20;
        } while (!clear);
    }
    s.grip = random_point(&seed);
    s.target = (int)(next_random(&seed) % BLOCKS);
    s.grab = next_random(&seed) % 2 == 1;
    return s;
}

static void rectangle(uint8_t *frame, point centre, int half_width, int half_height, const uint8_t colour[3]) {
    for (int y = centre.y - half_height; y <= centre.y + half_height; y++)
        for (int x = centre.x - half_width; x <= centre.x + half_width; x++)
            if (x >= 0 && x < SIDE && y >= 0 && y < SIDE)
                for (int c = 0; c < 3; c++)
                    frame[(y * SIDE + x) * 3 + c] = colour[c];
}

static void draw(const scene *s, uint8_t *frame) {
    static const uint8_t frame_colour[3] = {30, 30, 30}, white[3] = {250, 250, 250}, yellow[3] = {250, 220, 0};
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            int darker = (x / 16 + y / 16) % 2 == 1 ? 8 : 0;
            uint8_t *pixel = frame + (y * SIDE + x) * 3;
            pixel[0] = (uint8_t)(96 + x / 2 - darker);
            pixel[1] = (uint8_t)(96 + y / 2 - darker);
            pixel[2] = (uint8_t)(120 - darker);
        }
    for (int block = 0; block < BLOCKS; block++) {
        rectangle(frame, s->blocks[block], 7, 7, frame_colour);
        rectangle(frame, s->blocks[block], 6, 6, COLOURS[block]);
    }
    rectangle(frame, s->grip, 1, 9, white);
    rectangle(frame, s->grip, 9, 1, white);
    rectangle(frame, s->grip, 2, 2, yellow);
}

static int moved(int from, double by) {
    int to = from + (int)fmin(fmax(floor(by + 0.5), -STEP_MAX), STEP_MAX);
    return to < 0 ? 0 : to >= SIDE ? SIDE - 1 : to;
}

/* Runs an episode and prints how it ended. -1 where the policy failed. */
static int episode(dream_model *model, uint64_t seed, double *chunk, size_t count) {
    static uint8_t frame[SIDE * SIDE * 3];
    scene s = new_scene(seed);
    char task[64];
    snprintf(task, sizeof task, "%s the %s block", s.grab ? "grab" : "pick up", COLOUR_NAMES[s.target]);
    dream_image view = {.pixels = frame, .width = SIDE, .height = SIDE};
    dream_observation seen = {.size = sizeof seen, .task = task, .images = &view, .image_count = 1};
    dream_actions out = {.size = sizeof out, .actions = chunk, .actions_count = count};

    bool closed = false;
    int actions = 0;
    for (int query = 0; query < QUERIES_MAX && !closed; query++) {
        dream_act_options options = {.size = sizeof options, .seed = (uint64_t)query};
        draw(&s, frame);
        if (dream_act(model, &seen, &options, &out) != DREAM_STATUS_OK)
            return -1;
        for (const double *action = chunk; action < chunk + count && !closed; action += ACTION_DIM) {
            s.grip.x = moved(s.grip.x, action[0]);
            s.grip.y = moved(s.grip.y, action[1]);
            closed = action[ACTION_DIM - 1] <= 0.5;
            actions++;
        }
    }
    bool success = closed && distance(s.grip, s.blocks[s.target]) <= TOLERANCE;
    printf("seed %d: %s: %s after %d actions at %d,%d\n", (int)seed, task, success ? "success" : "failure", actions,
           s.grip.x, s.grip.y);
    return success;
}

/* Runs all episodes. The exit code of the program. */
static int run(dream_model *model, int episodes) {
    dream_info info = {.size = sizeof info};
    if (dream_describe(model, &info) != DREAM_STATUS_OK) {
        fprintf(stderr, "error: %s\n", dream_last_error());
        return EXIT_FAILURE;
    }
    if (info.views != 1 || info.action_dim != ACTION_DIM || info.proprio_dim != 0) {
        fprintf(stderr, "error: not a policy of this robot: one view, %d numbers of an action, no state\n", ACTION_DIM);
        return EXIT_FAILURE;
    }
    size_t count = (size_t)info.chunk * info.action_dim;
    double *chunk = malloc(count * sizeof *chunk);
    int successes = 0, outcome = 0;
    for (int i = 0; chunk && i < episodes && outcome >= 0; i++) {
        outcome = episode(model, FIRST_SEED + (uint64_t)i, chunk, count);
        successes += outcome > 0;
    }
    free(chunk);
    if (!chunk || outcome < 0) {
        fprintf(stderr, "error: %s\n", chunk ? dream_last_error() : "out of memory");
        return EXIT_FAILURE;
    }
    printf("%d of %d\n", successes, episodes);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    int episodes = argc == 3 ? atoi(argv[2]) : 0;
    if (episodes < 1) {
        fprintf(stderr, "usage: %s FILE EPISODES\n", argc > 0 ? argv[0] : "tabletop");
        return 2;
    }
    dream_model *model;
    if (dream_open(argv[1], NULL, &model) != DREAM_STATUS_OK) {
        fprintf(stderr, "error: %s\n", dream_last_error());
        return EXIT_FAILURE;
    }
    int code = run(model, episodes);
    dream_close(model);
    return code;
}
