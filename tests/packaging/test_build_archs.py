"""Architectures that torch or nvcc does not know are named before anything is compiled."""

from __future__ import annotations

import pytest
from test_build import config, make_toolkit, torch_info


@pytest.mark.parametrize(
    ("archs", "flags", "parts"),
    [
        ("3.5", ["arch=compute_35,code=sm_35"], ("cannot compile for 3.5;", "7.5, 8.0")),
        ("8.0;9.9+PTX", ["arch=compute_80,code=sm_80", "arch=compute_99,code=sm_99"], ("9.9;",)),
        ("banana", ValueError("Unknown CUDA arch (banana)"), ("no architecture for it", "8.0;9.0")),
        ("native", IndexError("list index out of range"), ("no architecture for it",)),
    ],
)
def test_unknown_architectures_are_named(tmp_path, archs, flags, parts):
    def expand():
        if isinstance(flags, Exception):
            raise flags
        return flags

    home = make_toolkit(tmp_path / "cuda", "13.0", archs=(75, 80, 90))
    env = {"CUDA_HOME": str(home), "TORCH_CUDA_ARCH_LIST": archs}
    plan = config.plan_cuda(torch_info(), env)
    with pytest.raises(config.BuildError) as error:
        config.check_archs(plan, torch_info(), expand)
    text = " ".join(str(error.value).split())
    for part in (f"TORCH_CUDA_ARCH_LIST={archs!r}", *parts):
        assert part in text
    known = ["-gencode=arch=compute_90a,code=sm_90a", "-gencode=arch=compute_80,code=compute_80"]
    config.check_archs(plan, torch_info(), lambda: known)
