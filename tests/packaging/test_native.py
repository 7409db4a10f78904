"""The native libraries: what is loaded, each instruction set, and the import's own needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from samples import make

import fastcam
from fastcam.ops import library
from fastcam.ops.library import raw

PROBE = """
import json, torch
import fastcam
from samples import LAYOUTS, SHAPES, make
out = []
for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
    for layout in LAYOUTS:
        for shape in SHAPES:
            sample = make(shape, dtype=dtype, layout=layout)
            leaves = sample.leaves()
            loss = fastcam.functional.cam_iou_loss(*leaves, sample.regions, reduction="sum")
            grads = torch.autograd.grad(loss, leaves)
            out.append([loss.item(), *(float(g.double().abs().sum()) for g in grads)])
print(json.dumps([fastcam.build_info()["cpu_isa"], out]))
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    tests = str(Path(__file__).parents[1] / "support")
    path = os.pathsep.join([tests, *sys.path])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_instruction_set_gives_the_same_results():
    asked = ["baseline", "avx2", ""]
    results = {}
    for isa in asked:
        done = run(PROBE, FASTCAM_CPU_ISA=isa)
        assert done.returncode == 0, done.stderr
        name, values = json.loads(done.stdout)
        results[name] = values
    if fastcam.build_info()["cpu_isa"] == "baseline":
        pytest.skip("this processor runs the baseline kernels only")
    assert "baseline" in results and len(results) >= 2
    for values in results.values():
        for got, wanted in zip(values, results["baseline"], strict=True):
            assert got == pytest.approx(wanted, rel=2e-4, abs=1e-5)


@pytest.mark.parametrize("isa", ("baseline", "avx2"))
def test_attend_on_an_older_processor(isa):
    """Its own tests, once more."""
    if fastcam.build_info()["cpu_isa"] == "baseline":
        pytest.skip("this processor runs the baseline kernels only")
    tests = str(Path(__file__).parents[1] / "ops" / "test_attend.py")
    options = ["-q", "-x", "-p", "no:cacheprovider", "-k", "not compile and not opcheck"]
    done = run(
        f"import pytest, sys; sys.exit(pytest.main({[tests, *options]!r}))", FASTCAM_CPU_ISA=isa
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_build_info_tells_what_runs():
    info = fastcam.build_info()
    assert info["version"] == fastcam.__version__
    assert info["torch"] == torch.__version__
    assert info["cpu_isa"] in ("baseline", "avx2", "avx512")
    assert info["build"]["torch_target"] == "2.10"
    if info["cuda"]:
        assert info["cuda_missing"] is None
    else:
        assert info["cuda_missing"]


@pytest.mark.parametrize(
    ("built", "runs", "not_on"),
    [
        (["8.0", "9.0+PTX"], [(8, 0), (8, 9), (9, 0), (10, 0), (12, 1)], [(7, 5)]),
        (["8.6", "9.0"], [(8, 6), (8, 9), (9, 0)], [(8, 0), (10, 0)]),
        (["9.0a"], [(9, 0)], [(9, 1), (10, 0)]),
        (["10.0f"], [(10, 0), (10, 3)], [(12, 0)]),
        (["Ampere"], [(7, 5)], []),
        ([], [(7, 5)], []),
    ],
)
def test_gpus_without_code_for_them(built, runs, not_on, monkeypatch):
    monkeypatch.setattr(library, "_built", lambda: {"arch_list": built})
    assert [library.lacks_code(capability) for capability in runs] == [None] * len(runs)
    for major, minor in not_on:
        assert f"TORCH_CUDA_ARCH_LIST='{major}.{minor}'" in library.lacks_code((major, minor))


def test_import_needs_torch_and_numpy_only():
    code = (
        "import sys\n"
        "class Block:\n"
        "    names = {'torchvision', 'lightning', 'torchmetrics', 'typer', 'rich', 'matplotlib',\n"
        "             'PIL', 'dlib', 'hypothesis', 'pytest', 'sklearn'}\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in self.names:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import fastcam\n"
        "assert fastcam.functional.cam_iou_loss and fastcam.IoUCamLoss and fastcam.ActivationTap\n"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_a_missing_extra_says_how_to_get_it():
    from fastcam._util.extras import require

    with pytest.raises(ImportError, match=r"'no_such_package'.*pip install 'fastcam\[train\]'"):
        require("no_such_package.sub", extra="train")
    assert require("json", extra="train") is json


def test_a_backward_without_targets_writes_zeros():
    activations = torch.rand(2, 3, 4, 4)
    alpha, cam, peak = torch.rand(2, 0, 3), torch.rand(2, 0, 4, 4), torch.rand(2, 0)
    for need_a, need_d in ((True, True), (True, False), (False, True)):
        grad_a, grad_d = raw._cam_backward(activations, alpha, cam, peak, cam, True, need_a, need_d)
        assert torch.equal(grad_a, torch.zeros_like(activations) if need_a else torch.empty(0))
        assert grad_d.shape == ((2, 0, 3) if need_d else (0,))


def test_raw_ops_refuse_maps_without_cells():
    nothing, cam = torch.empty(2, 3, 0, 4), torch.empty(2, 1, 0, 4)
    with pytest.raises(RuntimeError, match="no cells"):
        raw._cam_backward(nothing, torch.empty(2, 1, 3), cam, torch.empty(2, 1), cam, *(True,) * 3)
    for a, d in ((nothing, torch.rand(2, 1, 3, 2, 2)), (torch.rand(2, 3, 4, 4), nothing[:, None])):
        with pytest.raises(RuntimeError, match="no cells"):
            raw._cam_forward(a, d, True)


def odd_bytes(mask: torch.Tensor) -> torch.Tensor:
    """The same bools, True as any byte but 0: what a view of other memory may hold."""
    bytes_ = torch.randint(1, 256, mask.shape, generator=torch.Generator().manual_seed(0))
    return torch.where(mask, bytes_, 0).to(torch.uint8).view(torch.bool)


def test_any_byte_but_zero_is_true():
    rng = torch.Generator().manual_seed(1)
    sample = make((40, 3, 4, (3, 3), (3, 3)))
    on = torch.rand(40, 3, generator=rng) < 0.5
    losses = [
        fastcam.functional.cam_iou_loss(
            sample.activations, sample.gradients, sample.regions, where=where, reduction="none"
        )
        for where in (on, odd_bytes(on))
    ]
    assert torch.equal(*losses) and torch.equal(losses[0] != 0, on)
