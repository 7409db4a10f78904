"""What the compiler made of the CUDA kernels, read from the built library; no GPU is needed."""

from __future__ import annotations

import pytest

from bench import cuda_resources as resources

LIBRARY = resources.library_path()

pytestmark = [
    pytest.mark.skipif(LIBRARY is None, reason="the CUDA library is not built"),
    pytest.mark.skipif(resources.cuobjdump() is None, reason="cuobjdump is not installed"),
]


@pytest.fixture(scope="module")
def kernels():
    return resources.parse_resources(resources.dump(LIBRARY, "resource-usage"))


@pytest.fixture(scope="module")
def sass(kernels):
    """Of the newest architecture only: disassembly takes long (``make cuda-all`` does them all)."""
    return resources.disassemble(LIBRARY, resources.architectures(kernels)[-1:])


def test_every_variant_is_there(kernels):
    """Four dtypes; cam: one target or four, forward for grad_cam and cam_iou, and backward;
    one-pass cam_loss: one target, four or sixteen, forward and backward, a probe;
    attend: long and short rows; forward, pooled, pooled under several curves, backward, pooled;
    tone_curve: forward and backward."""
    archs = {kernel.arch for kernel in kernels}
    assert archs
    for arch in archs:
        names = [kernel.short_name for kernel in kernels if kernel.arch == arch]
        one_pass = [n for n in names if n.startswith(("cam_loss_", "cluster_probe_"))]
        assert len(set(one_pass)) == len(one_pass) == 4 * 3 * 2 + 1
        cam = [name for name in names if name.startswith("cam_") and name not in one_pass]
        assert len(set(cam)) == len(cam) == 4 * 2 * 3
        attend = [name for name in names if name.startswith(("attend_", "tone_curve_"))]
        assert len(set(attend)) == len(attend) == 4 * (2 * (3 + 2) + 2)
        assert len(names) == len(one_pass) + len(cam) + len(attend)


def test_resources_and_instructions_keep_the_rules(kernels, sass):
    """No stack, no local memory, registers within budget, no float atomics."""
    newest = resources.architectures(kernels)[-1]
    assert set(sass) == {(newest, k.symbol) for k in kernels if k.arch == newest}
    assert resources.broken_rules(kernels, sass) == []
