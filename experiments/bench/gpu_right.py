"""That the engine is right on a GPU: the tests marked `gpu`, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import torch

from experiments.bench.measuring import Measured, Ratio
from experiments.running.provenance import ROOT

TESTS = "tests/gpu"
# Seconds; a test that hangs must not take the other figures with it. A GPU may be there for minutes alone.
LONGEST = {"cuda": 240, "cpu": 1800}


def measure(device: str, arguments: Sequence[str], say: Callable[[str], None]) -> Measured:
    """Run the tests on a device; the figure is the share of those run that passed.

    `arguments` are pytest's own, to choose among them. Warnings do not fail a test here, as libraries of
    other versions give others. Raises RuntimeError where no test ran or they took too long.
    """
    longest = LONGEST[torch.device(device).type]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", TESTS, "-m", "gpu", "-q", "-W", "default", *arguments]
        command += ["-p", "no:cacheprovider", f"--junitxml={file}"]
        try:
            ended = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | {"P2P_TEST_DEVICE": device},
                stdout=sys.stderr,
                timeout=longest,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"tests: {TESTS} took longer than {longest} s, allowed is less") from None
        if not file.exists():
            raise RuntimeError(f"tests: pytest ended with code {ended.returncode} and no report")
        return counted(file, say)


def counted(file: Path, say: Callable[[str], None]) -> Measured:
    """Return what a JUnit report of pytest counts. Raises RuntimeError where no test ran."""
    cases = list(ElementTree.parse(file).getroot().iter("testcase"))
    skipped = [case for case in cases if case.find("skipped") is not None]
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    ran = len(cases) - len(skipped)
    reasons = sorted({str(case.find("skipped").get("message")) for case in skipped})  # type: ignore[union-attr]
    if not ran:
        why = "; ".join(reasons) or "none was found"
        raise RuntimeError(f"tests: none of {TESTS} ran ({why}), allowed is one or more")
    say(f"{ran - len(failed)} passed, {len(failed)} failed, {len(skipped)} skipped")
    return Measured(
        {"right": Ratio.of([(ran - len(failed)) / ran])},
        {
            "tests_passed": ran - len(failed),
            "tests_failed": len(failed),
            "tests_skipped": len(skipped),
            "tests_skipped_because": reasons,
            "tests_that_failed": [f"{case.get('classname')}.{case.get('name')}" for case in failed],
        },
    )
