#!/usr/bin/env bash
# A range that leaves its end out in Hydra's own sweep has it under the Optuna sweeper, but not with its grid sampler.
#
# Package: hydra-optuna-sweeper 1.3.0 with hydra-core 1.3.8 and optuna 2.10.1.
# Guess: `tau=range(0,1,0.5)` is 0 and 0.5 whichever sweeper reads it, as Hydra's override grammar says (like
#   Python's range, without the stop).
# Found: Hydra's basic sweeper and Optuna's grid sampler run 0 and 0.5; Optuna's other samplers run 0, 0.5 and 1.
# Matters: the end is often another method: at strength 1 or a share of 1 of the steps nothing of the source is
#   left, at a step count of `range(10,60,10)` one more is tried. A search and the grid that it is compared with
#   are then not over the same settings.
# Source: https://hydra.cc/docs/advanced/override_grammar/extended/ ("range"); `create_optuna_distribution_from_override`
#   and `_to_grid_sampler_choices` in hydra_plugins/hydra_optuna_sweeper/_impl.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
    hydra-core==1.3.8 hydra-optuna-sweeper==1.3.0 optuna==2.10.1 sqlalchemy==2.1.9
cd "$folder"
cat >tune.py <<'PYTHON'
import hydra


@hydra.main(version_base=None, config_path=None)
def tune(cfg):
    with open(cfg.seen, "a") as file:
        print(cfg.tau, file=file)
    return float(cfg.tau)


tune()
PYTHON
optuna=(hydra/sweeper=optuna hydra.sweeper.n_trials=16 hydra.sweeper.n_jobs=1)
tune() {
    venv/bin/python tune.py -m "+seen=$folder/$1.txt" '+tau=range(0,1,0.5)' "${@:2}" >/dev/null 2>&1
    echo "$1: $(sort -u "$1.txt" | xargs)" | tee -a seen.log
}
tune basic
tune grid "${optuna[@]}" hydra/sweeper/sampler=grid
tune random "${optuna[@]}" hydra/sweeper/sampler=random hydra.sweeper.sampler.seed=1
tune tpe "${optuna[@]}" hydra.sweeper.sampler.seed=1
diff - seen.log <<'TEXT'
basic: 0.0 0.5
grid: 0.0 0.5
random: 0.0 0.5 1.0
tpe: 0.0 0.5 1.0
TEXT
