"""Augmentation on a GPU: as on the CPU, and without a wait for it (``--device cuda``)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastcam.data import Augment, Collate, RegionCutout
from fastcam.regions import MaskRegion, Region, template_landmarks

pytestmark = pytest.mark.cuda
SIZE = (48, 64)


def _samples(masks: bool) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    places: dict[str, Any] = {"landmarks": torch.tensor(template_landmarks(SIZE[1], SIZE[0]))}
    if masks:
        places = {"masks": torch.zeros(2, *SIZE, dtype=torch.uint8)}
        places["masks"][0, 10:30, 5:40], places["masks"][1, 20:, 30:] = 255, 255
    return [
        {
            "image": torch.randint(256, (3, *SIZE), generator=generator, dtype=torch.uint8),
            "labels": torch.zeros(1),
            "index": i,
            **places,
        }
        for i in range(12)
    ]


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("recipe", ["none", "flip", "full"])
def test_a_gpu_augments_as_the_cpu_and_is_not_waited_for(recipe, masks, device):
    if device.type != "cuda":
        pytest.skip("needs --device cuda")
    region: Any = MaskRegion(("a", "b"), (0, 1)) if masks else Region.parse("mouth")
    cutout = RegionCutout(region, 0.5, outside=True)
    collate = Collate([region], (5, 7), augment=Augment(recipe, cutout, seed=3))
    batch: Any = collate(_samples(masks))
    wanted: Any = collate.finish(batch)
    there: Any = {key: value.to(device) for key, value in batch.items()}
    found: Any = collate.finish(there)  # what it needs of constants is on the device from now on
    torch.cuda.set_sync_debug_mode("error")
    try:
        collate.finish(there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.keys() == wanted.keys()
    for key in ("image", "masks") if masks else ("image",):
        assert found[key].dtype == torch.uint8
        assert (found[key].cpu().int() - wanted[key].int()).abs().max() <= 1
    torch.testing.assert_close(found["regions"].cpu(), wanted["regions"], rtol=0, atol=5e-3)
