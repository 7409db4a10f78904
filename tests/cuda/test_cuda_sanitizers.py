"""The emulated kernels under AddressSanitizer and UBSan; real threads under ThreadSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from emulation import build, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler")

PROGRAMS = ("sanitized", "sanitized_onepass", "sanitized_attend")
FLAGS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
MODE = {"address": "fibers", "thread": "threads"}


@cache
def program(name: str, sanitizer: str) -> Path:
    sources = [f"{name}.cpp", "emulator.cpp"]
    # (Not by whether the program compiles: a mistake in it would skip its test.)
    command = [str(compiler()), *FLAGS[sanitizer], "-x", "c++", "-", "-o", os.devnull]
    if subprocess.run(command, input="int main() {}", text=True, capture_output=True).returncode:
        pytest.skip(f"this compiler has no -fsanitize={sanitizer}")
    return build(f"{name}-{sanitizer}", sources, ["-O1", "-g1", *FLAGS[sanitizer]])


def run(
    sanitizer: str, *arguments: str, name: str = "sanitized"
) -> subprocess.CompletedProcess[str]:
    command = [str(program(name, sanitizer)), *arguments, MODE[sanitizer]]
    if sanitizer == "thread" and shutil.which("setarch"):  # its shadow memory wants fixed addresses
        command = ["setarch", "-R", *command]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1"},
    )


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("sanitizer", FLAGS)
def test_kernels_are_clean(sanitizer, name):
    result = run(sanitizer, name=name)
    assert result.returncode == 0, result.stdout + result.stderr[-4000:]
    assert "ok" in result.stdout and "WRONG" not in result.stdout


@pytest.mark.parametrize(
    ("sanitizer", "bug", "report"),
    [
        ("address", "shared index past the end", "heap-buffer-overflow"),
        ("thread", "read after write", "data race"),
        ("thread", "write after read", "data race"),
    ],
)
def test_planted_bug_is_noticed(sanitizer, bug, report):
    result = run(sanitizer, "planted", bug)
    assert result.returncode != 0 and report in result.stderr, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("sanitizer", "what"),
    [("address", "none: shared index"), ("thread", "none: barriers")],
)
def test_no_false_alarm(sanitizer, what):
    assert run(sanitizer, "planted", what).returncode == 0
