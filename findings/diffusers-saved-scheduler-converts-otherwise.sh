#!/usr/bin/env bash
# A scheduler that was saved and loaded converts to other timesteps than the one that was saved.
#
# Package: diffusers 0.42.1.
# Guess: `EulerDiscreteScheduler.from_config(scheduler.config)` depends on the values in the config. Saving a
#   scheduler and loading it again changes none of them, so the conversion gives the same timesteps.
# Found: a config remembers which of its values nobody gave. `from_config` leaves these out, and the new class puts
#   its own default there; the file on disk has lost that memory. DDIM built in Python with its default spacing
#   becomes Euler with "linspace"; the same DDIM, saved and loaded, becomes Euler with "leading". The two DDIM
#   schedulers themselves agree in every value and every timestep.
# Matters: swapping the scheduler is the usual first line of a sampling or inversion experiment. The same line
#   starts 4 steps at t = 999 on a pipeline made in a script and at t = 750 on the copy of it that was saved, which
#   is a different amount of noise and another picture, without a word.
# Source: `ConfigMixin.extract_init_dict` and `register_to_config` in diffusers/configuration_utils.py
#   (`_use_default_values`, removed in `to_json_string`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile diffusers==0.42.1 torch==2.14.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

made = DDIMScheduler()
made.save_pretrained("saved")
loaded = DDIMScheduler.from_pretrained("saved")


def values(scheduler):
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}


def timesteps(scheduler):
    scheduler.set_timesteps(4)
    return [int(t) for t in scheduler.timesteps]


assert values(made) == values(loaded), "saving changes the values themselves"
assert timesteps(made) == timesteps(loaded)
found = {}
for kind in (EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler):
    found[kind.__name__] = [timesteps(kind.from_config(scheduler.config)) for scheduler in (made, loaded)]
    print(kind.__name__, "from the one made:", found[kind.__name__][0], "from its copy:", found[kind.__name__][1])
assert found == {
    "EulerDiscreteScheduler": [[999, 666, 333, 0], [750, 500, 250, 0]],
    "DPMSolverMultistepScheduler": [[999, 749, 500, 250], [800, 600, 400, 200]],
    "UniPCMultistepScheduler": [[999, 749, 500, 250], [800, 600, 400, 200]],
}, found
PYTHON
