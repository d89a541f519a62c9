// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/config_text.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "proto/wire/config.h"
#include "proto/wire/config_values.h"

namespace terse::wire {
namespace {

constexpr absl::string_view kIntroduction = R"(# Configuration

<!-- Generated from the table of keys (proto/wire/config_table.cc); edit that, not this. -->

A group is opened with one configuration. Each value comes from, in rising precedence:

1. the default;
2. YAML: the text given to `terse_group_open`, or else the file that `TERSE_CONFIG` names;
3. the environment, by the names in the table;
4. a flag of the `terse` command.

`terse config show --origin` says where each value came from. An unknown or doubled key, a value that is
not allowed, and an environment variable that begins with `TERSE_` and is not known are errors that name
the key, the value and what is allowed.

```yaml
method: dgc
exclude: ["*.bias", "*norm*", "embedding.*"]
dgc:
  density: 0.001
  warmup_steps: 500
transport: {timeout_s: 120}
```

In YAML, keys with a dot nest as above. In the environment and in flags a list is `a, b` or `[a, b]`; a
boolean is `true` or `false`, also `1`, `0`, `yes`, `no`, `on`, `off`. Numbers are decimal and finite.

All ranks must use the same values, but for the keys marked "per rank"; ranks compare them when the group
opens, and the first difference is named on every rank.

| key | values | default | environment | meaning |
|---|---|---|---|---|
)";

constexpr absl::string_view kRules = R"(
## Keys that go together

- `method: dgc` always uses the codec `topk`, with `dgc.density`, and `method: onebit_adam` always
  `onebit`: a `compressor` that says something else is an error, and so are `error_feedback: false` and
  `reduce: sum`; but `dgc` gives sums where `dgc.job_momentum` is stated.
- `dgc.job_momentum` is for jobs whose own optimizer has momentum and takes the result as its gradient. Stated, it is
  also `dgc.momentum`, and `dgc.job_nesterov` is `dgc.nesterov`: leave those out, another value is an error. So are
  `dgc.weight_decay`, which is for the job's optimizer then, and `dgc.job_nesterov` alone. Under a preload library
  `method: dgc` needs it ([preload.md](preload.md)).
- `adam.freeze: auto` needs `adam.lr_warmup_steps` when the job warms its learning rate up; as a number,
  15 to 25 % of all steps is good for `adam.freeze`. Where that is before about 1/(1 - beta2) steps, set
  `adam.bias_correction`: the variance is still too small then, and every later step too long.
- `dgc.decay: local` with `dgc.weight_decay` above 0 needs `terse_optimizer_step`: `terse_allreduce` does not
  know the parameters, and says so.
- `topk.warmup_steps` above 0 needs a `topk.warmup_density` that is not empty, and `dgc.warmup_steps` a
  `dgc.warmup_density`. Each method reads its own.
- A `policy.name` other than `static` goes with `method: allreduce`, its `policy.window` is at most its `policy.interval`, and
  `policy.families` are names of compressors ([policies.md](policies.md)). `replay` and `policy.history` go together.
- `controller.token_file` and `controller.job` are for a `controller.address`, which does not go with `replay`. `tls.cert` and
  `tls.key` go together, and need `tls.ca` ([controller.md](controller.md)).
- `rank` needs `world_size`, and must be below it.

## Other variables

| environment | meaning |
|---|---|
| `TERSE_CONFIG` | path of the YAML file that is read when no YAML text is given |
| `TERSE_LOG` | what is logged to standard error |
| `TERSE_SIMD` | the instruction set that kernels use, instead of the best there is |
| `TERSE_PLUGIN_PATH` | folders in which plug-ins are looked for first |
| `TERSE_REPORT` | the file into which a preload library writes what it saw ([preload.md](preload.md)) |
| `TERSE_PRELOAD` | `observe` or `compress`: what a preload library does, whatever is configured ([preload.md](preload.md)) |
| `TERSE_PROGRESS_THREAD` | 1: a preload library that compresses gives the job MPI_THREAD_MULTIPLE, which compressing non-blocking calls needs ([preload.md](preload.md)) |
| `TERSE_DOUBLES` | 1: a preload library compresses sums of double precision like those of floats ([preload.md](preload.md)) |
| `TERSE_HANG_AFTER_S` | seconds after which a preload library says why a call waits (60; 0: never; [preload.md](preload.md#when-a-job-hangs)) |
)";

// "integer: 1 to 8"; the values of choices and booleans speak for themselves.
std::string Values(const ConfigKey& key) {
  const bool listed = key.type == "choice" || key.type == "boolean";
  return listed ? std::string(key.allowed) : absl::StrCat(View(key.type), ": ", View(key.allowed));
}

// Inside a table's cell a bar ends the cell and a star may begin emphasis.
std::string Cell(std::string_view text) {
  return absl::StrReplaceAll(View(text), {{"|", "\\|"}, {"*", "\\*"}, {"<", "&lt;"}});
}

}  // namespace

std::string ConfigHelp() {
  std::string text;
  for (const ConfigKey& key : ConfigKeys()) {
    absl::StrAppend(&text, View(key.path), "  (", EnvironmentName(key.path), ")\n    ", View(key.help),
                    key.agreed ? "" : " (per rank)", "\n    ", Values(key), "; default: ", key.get(Config()),
                    "\n");
  }
  return text;
}

std::string ConfigMarkdown() {
  std::string text(kIntroduction);
  for (const ConfigKey& key : ConfigKeys()) {
    absl::StrAppend(&text, "| `", View(key.path), "` | ", Cell(Values(key)), " | `", key.get(Config()),
                    "` | `", EnvironmentName(key.path), "` | ", Cell(key.help),
                    key.agreed ? "" : " (per rank)", " |\n");
  }
  absl::StrAppend(&text, kRules);
  return text;
}

}  // namespace terse::wire
