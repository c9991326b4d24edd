#!/usr/bin/env bash
# An exception that a signal handler raises does not end ray.wait or ray.get.
#
# Package: ray 2.60.0, of one node that it starts itself, Python 3.11.
# Guess: as in any blocking call of Python, what the handler of a signal raises comes out of ray.wait and ray.get
#   at once, and is of the class that was raised.
# Found: it depends on the class. KeyboardInterrupt and SystemExit come at once, but subclasses of them as these
#   plain classes. Of any other class nothing is seen until the call would have ended by itself (ray.wait: at its
#   timeout, ray.get: when the task has ended); then a SystemError ("returned a result with an exception set")
#   comes, with the handler's exception as its cause or as the cause of another SystemError between.
#   And `ray.init` puts a SIGTERM handler of its own in the place of the program's.
# Matters: a driver that ends itself with a class of its own at SIGTERM or at a scheduler's time limit (SIGUSR2)
#   goes on until the task is done, and is killed before that; an `except Stop:` around the call is never
#   reached. It has to wait in short turns, to look at the causes of a SystemError, and to set its handler again
#   after `ray.init`.
# Source: python/ray/_raylet.pyx, check_signals: KeyboardInterrupt and SystemExit are handed on, all else is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile ray==2.60.0
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 venv/bin/python - <<'PYTHON'
import os
import signal
import threading
import time

import ray


class Stop(BaseException):
    pass


class OwnInterrupt(KeyboardInterrupt):
    pass


RAISED = [KeyboardInterrupt]


def stop(number, frame):
    raise RAISED[0]


signal.signal(signal.SIGTERM, stop)
ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
replaced = signal.getsignal(signal.SIGTERM) is not stop
signal.signal(signal.SIGTERM, stop)


@ray.remote
def work():
    time.sleep(9)


def causes(error):
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    names = [type(one).__name__ for one in chain]
    return [name for place, name in enumerate(names) if place == 0 or name != names[place - 1]]


found = {"SIGTERM handler replaced": replaced}
for kind in (KeyboardInterrupt, OwnInterrupt, SystemExit, Stop):
    RAISED[0] = kind
    for name, call in (("wait", lambda one: ray.wait([one], timeout=6)), ("get", ray.get)):
        one = work.remote()
        began = time.monotonic()
        threading.Timer(2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        try:
            call(one)
            told = ["nothing"]
        except BaseException as error:
            told = causes(error)
        took = time.monotonic() - began
        found[f"{kind.__name__} from ray.{name}"] = (told, "at once" if took < 4 else "at the end")
        del one
ray.shutdown()
for what, outcome in found.items():
    print(f"{what}: {outcome}")

system = (["SystemError", "Stop"], "at the end")
assert found == {
    "SIGTERM handler replaced": True,
    "KeyboardInterrupt from ray.wait": (["KeyboardInterrupt"], "at once"),
    "KeyboardInterrupt from ray.get": (["KeyboardInterrupt"], "at once"),
    "OwnInterrupt from ray.wait": (["KeyboardInterrupt"], "at once"),
    "OwnInterrupt from ray.get": (["KeyboardInterrupt"], "at once"),
    "SystemExit from ray.wait": (["SystemExit"], "at once"),
    "SystemExit from ray.get": (["SystemExit"], "at once"),
    "Stop from ray.wait": system,
    "Stop from ray.get": system,
}, found
PYTHON
