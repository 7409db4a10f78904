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
    """Of the newest architecture only: disassembly takes long."""
    arch = max((kernel.arch for kernel in kernels), key=lambda name: int(name.strip("sm_af")))
    return resources.parse_sass(resources.dump(LIBRARY, "sass", arch))


def test_every_variant_is_there(kernels):
    """Four dtypes, one target or four; forward for grad_cam and cam_iou, and backward."""
    archs = {kernel.arch for kernel in kernels}
    assert archs
    for arch in archs:
        names = [kernel.short_name for kernel in kernels if kernel.arch == arch]
        cam = [name for name in names if name.startswith("cam_")]
        assert len(set(cam)) == len(cam) == 4 * 2 * 3


def test_no_stack_and_registers_within_budget(kernels):
    for kernel in kernels:
        assert kernel.stack == 0, kernel
        assert kernel.local == 0, kernel
        assert kernel.registers <= kernel.budget, kernel


def test_no_access_to_local_memory(sass):
    assert sass
    for kernel, counts in sass.items():
        assert counts["local"] == 0, kernel


def test_main_kernels_load_and_store_sixteen_bytes_at_once(sass):
    for (arch, name), counts in sass.items():
        if "cam_" not in name:
            continue
        assert counts["wide loads"] >= 4, (arch, name)
        if "cam_backward" in name:
            assert counts["wide stores"] >= 1, (arch, name)
