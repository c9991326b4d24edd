#!/usr/bin/env bash
# One NaN ends a whole Optuna sweep, while a job that raises is only counted.
#
# Package: hydra-optuna-sweeper 1.3.0 with hydra-core 1.3.8 and optuna 2.10.1.
# Guess: a metric that is not defined for one setting is worth returning as NaN: the trial is marked as failed and
#   the search goes on. Raising is the harsher answer.
# Found: the other way round. With `max_failure_rate` at 1 a raising job is booked as failed and the sweep runs to
#   its end with exit code 0; a job that returns NaN ends the sweep on the spot with a ValueError, and no result
#   of the finished trials is written.
# Matters: PSNR of an unedited region, CLIP of an empty mask or a similarity of equal pictures are undefined for some
#   settings of an edit. A night of tuning thresholds by such a metric is lost to the first one of them.
# Source: https://hydra.cc/docs/plugins/optuna_sweeper/ (`max_failure_rate`); `OptunaSweeperImpl.sweep` in
#   hydra_plugins/hydra_optuna_sweeper/_impl.py.
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
    if cfg.tau > 0.5 and cfg.undefined == "raise":
        raise ArithmeticError("undefined")
    return float("nan") if cfg.tau > 0.5 else cfg.tau


tune()
PYTHON
for undefined in raise nan; do
    code=0
    venv/bin/python tune.py -m hydra/sweeper=optuna hydra.sweeper.n_trials=12 hydra.sweeper.n_jobs=1 \
        hydra.sweeper.sampler.seed=1 hydra.sweeper.max_failure_rate=1 "hydra.sweep.dir=$undefined" \
        '+tau=interval(0,1)' "+undefined=$undefined" >"$undefined.log" 2>&1 || code=$?
    jobs=$(find "$undefined" -type d -name .hydra | wc -l)
    results=$(find "$undefined" -name optimization_results.yaml | wc -l)
    echo "$undefined: exit code $code, $jobs of 12 jobs ran, $results file of results" | tee -a seen.txt
    grep ValueError "$undefined.log" || true
done
diff - seen.txt <<'TEXT'
raise: exit code 0, 12 of 12 jobs ran, 1 file of results
nan: exit code 1, 2 of 12 jobs ran, 0 file of results
TEXT
