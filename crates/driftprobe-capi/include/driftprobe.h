/* driftprobe: an engine writes what it computes, row by row, as a run that `driftprobe analyze` judges.
 * Made by cbindgen from the crate driftprobe-capi; docs/embedding.md has a worked example. */

#ifndef DRIFTPROBE_H
#define DRIFTPROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// What a function came to.
typedef enum {
  // It is done.
  DP_OK = 0,
  // An argument is not what it must be; nothing was changed.
  DP_INVALID = 1,
  // Not now: the run is closed, or described after its first row.
  DP_STATE = 2,
  // The folder holds a run already.
  DP_EXISTS = 3,
  // The system refused to read or write.
  DP_IO = 4,
  // A mistake in driftprobe itself; the run should be closed.
  DP_PANIC = 5,
} dp_status;

// The phase that computed a row.
typedef enum {
  // The whole prompt at once.
  DP_PREFILL = 0,
  // One token against the KV cache.
  DP_DECODE = 1,
} dp_phase;

// The type in which values are stored.
typedef enum {
  // Not told.
  DP_UNKNOWN = 0,
  // IEEE binary64.
  DP_F64 = 1,
  // IEEE binary32.
  DP_F32 = 2,
  // IEEE binary16.
  DP_F16 = 3,
  // bfloat16.
  DP_BF16 = 4,
} dp_dtype;

// A run that is being written.
typedef struct dp_run dp_run;

// One row of one point, in host memory. Zero-initialise it, set `struct_size`, then what applies. Enumerations are plain
// integers here, so that any value can be refused.
typedef struct {
  // `sizeof(dp_row)`; that of another version of this header is refused.
  uint32_t struct_size;
  // A `dp_phase`.
  int32_t phase;
  // Id of the prompt, as given to `dp_run_prompt`.
  const char *prompt_id;
  // Id or alias of the point, such as `attn_out` or `x_in`.
  const char *point;
  // The layer, from 0; −1 for `embed_out`, `final_norm_in`, `final_norm_out` and `logits`.
  int32_t layer;
  // 0 in prefill; 1, 2 … in decode.
  uint32_t step;
  // Position fed to the rotary embedding.
  uint64_t pos_id;
  // Index of the token in the prompt.
  uint64_t token_index;
  // The token fed at this row.
  uint32_t token_id;
  // Tokens in this forward pass: 1 in a decode step.
  uint32_t seq_len;
  // Keys that this row attends over; 0: not told.
  uint64_t kv_len;
  // A `dp_dtype`: of the values.
  int32_t dtype;
  // A `dp_dtype`: of what the cache holds, if that is another (`k_cache`, `v_cache`).
  int32_t stored_dtype;
  // Dimensions of the row, up to 4.
  uint32_t rank;
  // Nonzero: the values are hashed and counted, but not kept.
  uint32_t without_payload;
  // Its shape.
  uint64_t shape[4];
  // Distance of neighbours in each dimension, in values; all 0: contiguous.
  int64_t strides[4];
  // The first value.
  const void *data;
} dp_row;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of this library, such as "0.1.0".
const char *dp_version(void);

// The message of the last failure on this thread; empty if there was none. Valid until the next failure on it.
const char *dp_last_error(void);

// Opens a run that will lie in the folder `dir`; its folder is made with the first row. With `overwrite`, a run that
// lies there is deleted then; without, the first row gives DP_EXISTS.
//
// # Safety
// `dir` is a string that ends with a zero byte; `run` points to a place for a handle.
dp_status dp_run_open(const char *dir,
                      bool overwrite,
                      dp_run **run);

// Sets fields of manifest.json: `{"engine": {…}, "model": {…}, "config": {…}, "contract": {…}, "mode": …}`, as
// docs/trace-format.md has them. May be called more than once; before the first row.
//
// # Safety
// `run` came from `dp_run_open` and is not closed; `json` ends with a zero byte.
dp_status dp_run_describe(dp_run *run,
                          const char *json);

// Adds a prompt: its id, and all tokens that prefill is fed (n, and one for each decode step after the first).
//
// # Safety
// `run` came from `dp_run_open` and is not closed; `id` ends with a zero byte; `count` tokens lie at `tokens`.
dp_status dp_run_prompt(dp_run *run,
                        const char *id,
                        const uint32_t *tokens,
                        size_t count);

// Says what will be traced: layers, points by id or alias, and decode steps. What is promised and not traced makes the
// run INCONCLUSIVE.
//
// # Safety
// `run` came from `dp_run_open` and is not closed; so many layers and points lie there; strings end with a zero byte.
dp_status dp_run_expect(dp_run *run,
                        const uint32_t *layers,
                        size_t layer_count,
                        const char *const *points,
                        size_t point_count,
                        uint32_t steps);

// Records a variable of the environment as it is set, such as HIP_LAUNCH_BLOCKING; not if it is not set.
//
// # Safety
// `run` came from `dp_run_open` and is not closed; `name` ends with a zero byte.
dp_status dp_run_environment(dp_run *run,
                             const char *name);

// Whether the run promises this point of this layer: ask before a row is copied from a device. False for what is no
// point, and for NULL.
//
// # Safety
// `run` is NULL or came from `dp_run_open` and is not closed; `point` is NULL or ends with a zero byte.
bool dp_run_wants(const dp_run *run,
                  const char *point,
                  int32_t layer);

// Traces one row. The values are copied before it returns. Rows of different prompts and phases may come in any order
// and from any thread.
//
// # Safety
// `run` came from `dp_run_open` and is not closed; `row` points to a dp_row as its fields say.
dp_status dp_run_trace(dp_run *run,
                       const dp_row *row);

// Writes what has been traced so far. Otherwise rows are written at 64 MiB a prompt and phase, and when the run is closed.
//
// # Safety
// `run` came from `dp_run_open` and is not closed.
dp_status dp_run_flush(dp_run *run);

// Closes the run, `complete` if all that was promised has been traced: nothing else can PASS. The handle is gone, also
// where this fails. NULL is left alone.
//
// # Safety
// `run` is NULL or came from `dp_run_open`, is not closed, and no other thread uses it any more.
dp_status dp_run_close(dp_run *run,
                       bool complete);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DRIFTPROBE_H */
