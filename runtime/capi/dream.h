/*
 * dream.h - runs artifacts of dreamc: actions for a robot, text for a prompt.
 *
 *     dream_model *model;
 *     if (dream_open("policy.dream", NULL, &model) != DREAM_STATUS_OK) {
 *         fprintf(stderr, "%s\n", dream_last_error());
 *         return 1;
 *     }
 *     dream_info info = {.size = sizeof info};
 *     dream_describe(model, &info);
 *     double *chunk = calloc((size_t)info.chunk * info.action_dim, sizeof *chunk);
 *
 *     dream_image view = {.pixels = camera, .width = 640, .height = 480};
 *     dream_observation seen = {.size = sizeof seen, .task = "pick up the red block",
 *                               .images = &view, .image_count = 1};
 *     dream_actions out = {.size = sizeof out, .actions = chunk,
 *                          .actions_count = (size_t)info.chunk * info.action_dim};
 *     if (dream_act(model, &seen, NULL, &out) == DREAM_STATUS_OK)
 *         move(chunk, info.chunk);
 *     else
 *         fprintf(stderr, "%s\n", dream_last_error());
 *     dream_close(model);
 *
 * A whole program is examples/c/tabletop.c.
 *
 * Rules
 *
 * Results. A call gives a dream_status, and where it is not DREAM_STATUS_OK, dream_last_error has the text. What a
 * failed call was to fill in is left as it was, save `*model` and `*json`, which are null. No call ends the program or
 * lets an exception out.
 *
 * Structs. Each that begins with `size` is to be zeroed and given its sizeof, as `= {.size = sizeof x}` does. Later
 * versions add fields at the end; what is zero means what it means today, so that programs built with this header run
 * with later libraries.
 *
 * Ownership. What the caller gives is read during the call only and stays the caller's. Texts that a call gives belong
 * to the model, or to the thread that called for dream_last_error, as long as the function says; nothing but the model
 * is to be freed.
 *
 * Threads. A model serves one call at a time, from any thread; a second one at that time gets DREAM_STATUS_BUSY. Several
 * models can be used at once. Each call uses the threads that dream_open_options asks for. After fork(), open anew.
 *
 * What is checked: null, alignment, lengths, UTF-8, numbers, closed handles, and an artifact by its hashes. What cannot
 * be and is up to the caller: pointers that are not null point to as much memory as stated, texts end with a zero byte,
 * no other thread writes to what is given during a call, results do not overlap, and an artifact's file is not changed
 * while it is open.
 *
 * Linking. cc program.c -L DIR -ldream, where DIR has libdream.so; or cc program.c DIR/libdream.a -lpthread -lm -ldl.
 *
 * This file is made from runtime/capi/src/; see runtime/capi/tests/header.rs.
 */

#ifndef DREAM_H
#define DREAM_H

#include <stddef.h>
#include <stdint.h>

// Bit of dream_info.entries: logits of given ids. Used from Rust and by `dreamc run`.
#define DREAM_ENTRY_FORWARD 1

// Bit of dream_info.entries: images to rows. Used from Rust and by `dreamc run`.
#define DREAM_ENTRY_ENCODE_IMAGE 2

// Bit of dream_info.entries: dream_generate.
#define DREAM_ENTRY_GENERATE 4

// Bit of dream_info.entries: dream_act.
#define DREAM_ENTRY_ACT 8

// How a call ended. What exactly is wrong, and what to do, says dream_last_error.
typedef enum dream_status {
    // It did what was asked.
    DREAM_STATUS_OK = 0,
    // An argument is not what the function or the model takes. Nothing was run.
    DREAM_STATUS_ARGUMENT = 1,
    // The file cannot be read.
    DREAM_STATUS_FILE = 2,
    // The file or the memory is not a sound artifact: cut off, damaged, or something else.
    DREAM_STATUS_ARTIFACT = 3,
    // The artifact is sound but cannot do this: it was built for other entries or other devices.
    DREAM_STATUS_UNSUPPORTED = 4,
    // A buffer of the caller is too small. Nothing was run.
    DREAM_STATUS_BUFFER = 5,
    // The system gave no memory, may not lock that much of it, or has no device that runs the artifact.
    DREAM_STATUS_SYSTEM = 6,
    // The model is in the middle of another call. One call at a time.
    DREAM_STATUS_BUSY = 7,
    // What should not happen: a bug of this library. The model is of no use any more: close it and open it again.
    DREAM_STATUS_BUG = 8,
    // The model's numbers are not finite: NaN or infinity in logits or actions. There is no answer; the model can be used
    // again.
    DREAM_STATUS_NOT_FINITE = 9,
} dream_status;

// How a policy makes a chunk of actions.
typedef enum dream_mode {
    // It makes none: dream_act is not supported. Or a way that this version has no name for.
    DREAM_MODE_NONE = 0,
    // Tokens, by discrete diffusion.
    DREAM_MODE_DISCRETE = 1,
    // Tokens, in one pass.
    DREAM_MODE_ONE_STEP = 2,
    // Numbers, in one pass.
    DREAM_MODE_L1 = 3,
    // Numbers from noise, by a flow. Takes noise.
    DREAM_MODE_FLOW = 4,
    // Numbers from noise, by DDIM. Takes noise.
    DREAM_MODE_DDIM = 5,
} dream_mode;

// An open artifact. One call at a time; any thread.
typedef struct dream_model dream_model;

// How an artifact is run. All zero but for `size` is the default.
typedef struct dream_open_options {
    // sizeof(dream_open_options).
    size_t size;
    // Number of threads, at most 1024; 0 for one per core. Results do not depend on it.
    uint32_t threads;
    // 1 keeps the weights in memory, so that no call waits for the disk; it needs the right to lock that much
    // (`ulimit -l`). Else 0.
    uint32_t lock_weights;
    // Lengths of prompts, in tokens with those of images, whose runs a GPU records when the model is opened and not at
    // the first request of that length; at most 8, each from 1 to dream_info.max_prompt. Other devices do nothing for it.
    const uint32_t *warm;
    // How many there are; 0 for those that the artifact was built with (`--warm`).
    size_t warm_count;
} dream_open_options;

// What a model takes and gives.
typedef struct dream_info {
    // sizeof(dream_info), set by the caller.
    size_t size;
    // What it can do: DREAM_ENTRY_GENERATE and the like, together.
    uint32_t entries;
    // How actions are made: a dream_mode.
    uint32_t mode;
    // Images of an observation; 0 if it does not act.
    uint32_t views;
    // Width that all images must have, in pixels; 0 if any.
    uint32_t image_width;
    // Height that all images must have, in pixels; 0 if any.
    uint32_t image_height;
    // Actions of a chunk; 0 if it does not act.
    uint32_t chunk;
    // Numbers of an action; 0 if it does not act.
    uint32_t action_dim;
    // Numbers of the robot's state; 0 if it takes none.
    uint32_t proprio_dim;
    // Longest prompt, in tokens, with those of its images.
    uint32_t max_prompt;
    // Tokens of an answer.
    uint32_t new_tokens;
    // Denoising steps.
    uint32_t steps;
    // Whether it takes images: 1 or 0.
    uint32_t sees;
} dream_info;

// An image: 8 bit RGB, rows from the top, red first. This struct stays as it is.
typedef struct dream_image {
    // The first pixel of the upper row. The rows must hold `3 * width` bytes each.
    const uint8_t *pixels;
    // Columns, at least 1.
    uint32_t width;
    // Rows, at least 1.
    uint32_t height;
    // Bytes from one row to the next, at least `3 * width`; 0 for exactly that.
    size_t stride;
} dream_image;

// What a robot sees and is told.
typedef struct dream_observation {
    // sizeof(dream_observation).
    size_t size;
    // The task, UTF-8: `pick up the red block`. It is put into the question that the model was trained with.
    const char *task;
    // The views, third-person first: dream_info.views of them.
    const struct dream_image *images;
    // How many.
    size_t image_count;
    // The robot's state in its own units, finite; null if the model takes none.
    const double *proprio;
    // How many numbers: dream_info.proprio_dim.
    size_t proprio_count;
} dream_observation;

// How a chunk is made. All zero but for `size` is the default.
typedef struct dream_act_options {
    // sizeof(dream_act_options).
    size_t size;
    // Of the random stream, and of the noise that flow and DDIM start from. The same seed gives the same actions.
    uint64_t seed;
    // The noise itself instead, finite, action after action: `chunk * action_dim` numbers. Null leaves it to the seed.
    const float *noise;
    // How many numbers; 0 for null.
    size_t noise_count;
} dream_act_options;

// Where a chunk of actions is put.
typedef struct dream_actions {
    // sizeof(dream_actions), set by the caller.
    size_t size;
    // Set by the caller: room for `chunk * action_dim` numbers. Is filled with the actions in the robot's units, action
    // after action.
    double *actions;
    // Set by the caller: how many numbers there is room for.
    size_t actions_count;
    // Set by the caller: room for the same as the model gives them, about -1 to 1; null if they are not wanted.
    double *normalized;
    // Set by the caller: how many numbers there is room for; 0 for null.
    size_t normalized_count;
    // Is set: passes through the decoder.
    uint32_t forwards;
    // Is set: how many of the tokens are no action tokens, and were read as the nearest. 0 is usual.
    uint32_t outside;
} dream_actions;

// What is asked.
typedef struct dream_prompt {
    // sizeof(dream_prompt).
    size_t size;
    // UTF-8. What a user says, after the images; or, with `raw`, the text as the model reads it, with `<|image_pad|>`
    // for each image.
    const char *text;
    // 1 takes the text as it stands; 0 puts it through the chat template.
    uint32_t raw;
    // Not used; 0.
    uint32_t reserved;
    // The images; null if there are none.
    const struct dream_image *images;
    // How many.
    size_t image_count;
} dream_prompt;

// How tokens and slots are chosen. All zero but for `size` is the default: no randomness, no filter.
typedef struct dream_sampling {
    // sizeof(dream_sampling).
    size_t size;
    // Of the random stream; matters with a temperature, with `alg_temp` and for `origin`.
    uint64_t seed;
    // 0 takes the most probable token.
    float temperature;
    // Keeps the most probable tokens up to this sum, at most 1; 0 keeps all.
    float top_p;
    // Keeps this many tokens; 0 keeps all.
    uint32_t top_k;
    // Above 0 draws the slots to commit instead of taking the most confident ones.
    float alg_temp;
    // Above 0 makes early ends of the answer less likely.
    float eos_penalty;
    // Not used; 0.
    uint32_t reserved;
} dream_sampling;

// What was generated.
typedef struct dream_generated {
    // sizeof(dream_generated), set by the caller.
    size_t size;
    // Is set: the answer, UTF-8 with a zero byte behind. It belongs to the model and stays until its next
    // dream_generate or dream_close.
    const char *text;
    // Is set: bytes of the answer without the zero byte. An answer may hold zero bytes of its own.
    size_t text_bytes;
    // Is set: denoising steps.
    uint32_t steps;
    // Is set: passes through the model.
    uint32_t forwards;
} dream_generated;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of this library, as `0.1.0`.
const char *dream_version(void);

// What the last call of this thread that failed has to say: what is wrong and what to do, UTF-8, in one line. Empty
// before the first. It stays until the next call of this thread that fails; at most 2048 bytes.
const char *dream_last_error(void);

// Opens an artifact by the path of its file, UTF-8. The file is mapped, not read: do not change it while it is open.
//
// A model that acts is made ready here: memory is taken and the weights are compared with their hashes, so that no
// dream_act waits for it. Any other model does so when it is first asked.
//
// `options` may be null. On success `*model` is the handle, to be closed by dream_close; else it is null.
enum dream_status dream_open(const char *path,
                             const struct dream_open_options *options,
                             struct dream_model **model);

// Opens an artifact that lies in memory, such as one that was linked into the program: `length` bytes, which are
// copied. They may be changed or freed after the call. A file is better opened by dream_open, which copies nothing.
//
// Everything else is as with dream_open.
enum dream_status dream_open_memory(const void *bytes,
                                    size_t length,
                                    const struct dream_open_options *options,
                                    struct dream_model **model);

// Closes a model and frees what it has; texts that belong to it are gone. Null is fine and does nothing. After a call
// that ended with DREAM_STATUS_BUG, too, this is how the handle is given back.
enum dream_status dream_close(struct dream_model *model);

// What the model takes and gives. Set `info->size` before.
enum dream_status dream_describe(const struct dream_model *model, struct dream_info *info);

// All that is known about the model, in JSON: `manifest` (entries, sizes, build options, the checkpoint's hash) and
// `settings` (images and actions, statistics of the robot; null for a model that does not see). `*json` belongs to the
// model and stays until dream_close; on failure it is null.
enum dream_status dream_describe_json(const struct dream_model *model,
                                      const char **json);

// A chunk of actions for what the robot sees. `options` may be null.
//
// The same observation, seed and noise give the same actions, whatever the number of threads. No memory is taken for
// the model; some is for a copy of the images.
enum dream_status dream_act(struct dream_model *model,
                            const struct dream_observation *observation,
                            const struct dream_act_options *options,
                            struct dream_actions *actions);

// Text for a prompt. `sampling` may be null. Set `generated->size` before.
enum dream_status dream_generate(struct dream_model *model,
                                 const struct dream_prompt *prompt,
                                 const struct dream_sampling *sampling,
                                 struct dream_generated *generated);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DREAM_H */
