#!/usr/bin/env bash
# The warning before a time limit is an exception in the job, and an `except Exception` turns it into one lost result.
#
# Package: submitit 1.5.4 (its local executor; the SLURM executor installs the same handler).
# Guess: shortly before the time limit the job is checkpointed or ended, and `job.result()` raises. What the job's
#   own code catches has nothing to do with it.
# Found: the signal handler raises `UncompletedJobError` inside whatever line is running, and that is a subclass of
#   Exception. A loop that catches the failure of one unit swallows it: the unit is booked as failed, the loop goes
#   on, `job.result()` returns, and nothing tells that the limit was near. Without such a loop `job.result()` raises.
#   With a limit of ten minutes or less that is what every such signal does to a function without `checkpoint`, as
#   the handler subtracts ten minutes from the limit before it tells a timeout from a preemption.
# Matters: editing benchmarks loop over pairs and go on when one fails. A worker at its limit then reports one broken
#   pair out of thousands, goes on, and is killed in the middle of a later one instead of being resumed.
# Source: `SignalHandler.checkpoint_and_try_requeue` and `has_timed_out` in submitit/core/job_environment.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile submitit==1.5.4
cd "$folder"
cat >work.py <<'PYTHON'
import time


def one():
    end = time.monotonic() + 3
    while time.monotonic() < end:
        time.sleep(0.1)


def careful():
    """Work through four units of three seconds and note those that fail."""
    outcome = []
    for _ in range(4):
        try:
            one()
            outcome.append("done")
        except Exception as error:
            outcome.append(type(error).__name__)
    return outcome


def plain():
    for _ in range(4):
        one()
    return "done"
PYTHON
venv/bin/python - <<'PYTHON'
import submitit
from work import careful, plain

executor = submitit.LocalExecutor(folder="jobs")
executor.update_parameters(timeout_min=0.3, signal_delay_s=14)  # the signal comes 4 s after the start, of 18
jobs = executor.submit(careful), executor.submit(plain)
outcome = jobs[0].result()
print("with `except Exception` round a unit:", outcome)
try:
    ended = repr(jobs[1].result())
except Exception as error:
    ended = type(error).__name__
print("without it, job.result():", ended)
assert sorted(outcome) == ["UncompletedJobError", "done", "done", "done"], outcome
assert ended in ("UncompletedJobError", "FailedJobError"), ended
PYTHON
