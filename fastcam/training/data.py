"""The batches of a run: a data module whose order survives a kill, or data loaders of yours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from fastcam._util.dropout import BatchShare
from fastcam._util.seeds import derive_seed
from fastcam.data.batches import Batch, Collate, EpochBatches, loader
from fastcam.evaluation.splits import Prepared


class Batches(LightningDataModule):
    """Data loaders of your own, with what :func:`fastcam.training.train` has to know of them.

    Any other Lightning data module will do that has the attributes ``attributes`` and, for classes,
    ``exclusive``.

    Args:
        train, valid: iterables of :class:`fastcam.data.batches.Batch` (``image``, ``labels`` and,
            for guidance, ``regions``), gone through anew in each epoch.
        attributes: names of the K labels.
        exclusive: whether they are classes, of which an image has one.

    Raises:
        TypeError: an iterator or a generator, which can be gone through once.
    """

    def __init__(
        self,
        train: Iterable[Batch],
        valid: Iterable[Batch],
        attributes: Sequence[str],
        exclusive: bool = False,
    ) -> None:
        super().__init__()
        for name, given in {"train": train, "valid": valid}.items():
            if isinstance(given, Iterator):
                raise TypeError(
                    f"{name}: expected an iterable that is gone through anew in each epoch, such as"
                    f" a DataLoader or a list, got {type(given).__name__}, which is used up by one"
                )
        self.train, self.valid = train, valid
        self.attributes, self.exclusive = list(attributes), exclusive

    @property
    def steps(self) -> int | None:
        """Training batches in an epoch, where their loader says it."""
        return len(self.train) if isinstance(self.train, Sized) else None

    def train_dataloader(self) -> Iterable[Batch]:
        return _Loader(self.train)

    def val_dataloader(self) -> Iterable[Batch]:
        return _Loader(self.valid)


class _Loader:
    """One loader, also where it is a list of batches: of a list, Lightning takes each for one."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches: Any = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)  # TypeError where it is not known, as of any iterable


class FolderBatches(LightningDataModule):
    """Training and validation batches.

    The trainer must be made with ``reload_dataloaders_every_n_epochs=1``: each epoch gets a loader
    of its own, whose order and augmentation depend on (seed, epoch), and which leaves out the
    batches that a killed run has seen.

    Args:
        train, valid: the splits.
        batch_size: images per training batch (validation uses the same), of all processes.
        seed: of the order and the augmentation.
        collate: draws the region grids of the training batches, and augments them: on the device,
            once they are there.
        valid_collate: draws the region grids of validation.
        workers: loader processes for splits that are not held in memory.
        parts: into how many a step divides its batch; so many at a time are augmented, and
            validation takes batches of that size.
    """

    def __init__(
        self,
        train: Prepared,
        valid: Prepared,
        *,
        batch_size: int,
        seed: int,
        collate: Collate,
        valid_collate: Collate,
        workers: int = 2,
        parts: int = 1,
    ) -> None:
        super().__init__()
        self.train, self.valid = train, valid
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.parts = parts
        self.collate, self.valid_collate = collate, valid_collate
        #: Of this process, which takes its share of each batch.
        self.share = BatchShare(0, 1)

    @property
    def steps(self) -> int:
        """Training batches in an epoch."""
        return -(-len(self.train) // self.batch_size)

    def images_in(self, batch: int) -> int:
        """Training images in a batch of an epoch."""
        return min(self.batch_size, len(self.train) - batch * self.batch_size)

    def position(self) -> tuple[int, int]:
        """The epoch that the trainer is in or about to enter, and how many batches it has seen."""
        loop: Any = self.trainer.fit_loop  # type: ignore[union-attr]
        seen = loop.epoch_loop.batch_progress.current.processed if loop.restarting else 0
        return loop.epoch_progress.current.processed, 0 if seen >= self.steps else seen

    def train_dataloader(self) -> DataLoader[Batch]:
        epoch, start = self.position()
        collate = self.collate.seeded(derive_seed(self.seed, 1, epoch))
        return self._loader(self.train, collate, seed=self.seed, epoch=epoch, start=start)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.valid, self.valid_collate, seed=None)

    def all_valid(self) -> DataLoader[Batch]:
        """The validation batches of all processes."""
        return self._loader(self.valid, self.valid_collate, seed=None, share=BatchShare(0, 1))

    def _loader(
        self,
        faces: Prepared,
        collate: Collate,
        share: BatchShare | None = None,
        **order: Any,
    ) -> DataLoader[Batch]:
        share = share or self.share
        size = self.batch_size if faces is self.train else -(-self.batch_size // self.parts)
        batches = EpochBatches(len(faces), size, share=(share.rank, share.count), **order)
        return loader(faces, batches, collate, self.workers)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        given: Any = batch
        if self.parts == 1 or "draws" not in given:
            return self.collate.finish(batch)
        size = max(1, -(-len(batch["labels"]) // self.parts))
        slices = zip(*(value.split(size) for value in given.values()), strict=True)
        made: list[Any] = [
            self.collate.finish(Batch(**dict(zip(given, part, strict=True)))) for part in slices
        ]
        found: Any = {key: torch.cat([part[key] for part in made]) for key in made[0]}
        return found
