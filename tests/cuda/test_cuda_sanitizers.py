"""The emulated kernels under AddressSanitizer and UBSan."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

import pytest
from emulation import build, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler")

FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@cache
def program(name: str) -> Path:
    # (Not by whether the program compiles: a mistake in it would skip its test.)
    command = [str(compiler()), *FLAGS, "-x", "c++", "-", "-o", os.devnull]
    if subprocess.run(command, input="int main() {}", text=True, capture_output=True).returncode:
        pytest.skip("this compiler has no -fsanitize=address,undefined")
    return build(name, [f"{name}.cpp", "emulator.cpp"], ["-O1", "-g1", *FLAGS])


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program(name)), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"},
    )


@pytest.mark.parametrize("name", ("sanitized", "sanitized_onepass", "sanitized_attend"))
def test_kernels_are_clean(name):
    result = run(name)
    assert result.returncode == 0, result.stdout + result.stderr[-4000:]
    assert "ok" in result.stdout and "WRONG" not in result.stdout


def test_planted_bug_is_noticed():
    result = run("sanitized", "planted", "shared index past the end")
    assert result.returncode != 0 and "heap-buffer-overflow" in result.stderr, result.stdout


def test_no_false_alarm():
    assert run("sanitized", "planted", "none: shared index").returncode == 0
