"""What the studio is told, in plain values; the command line reads them without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from fastcam._util import checks as check
from fastcam.data.choices import Fit
from fastcam.training.config import Schedule, of_network

MEGABYTE = 1 << 20
#: Names and addresses by which this machine alone is reached.
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class StartConfig:
    """The drawn faces and the small network that the studio makes on first use.

    Attributes:
        images: drawn faces, on which make-up and lipstick mostly come together.
        splits: their shares for training, validation and test.
        agreement: probability that ``other`` agrees with ``attribute`` in every image.
        attribute, other, region: what is shown first, what misleads, and where it should be read.
        model, size, fit, batch_size, lr, clip, schedule: of the training on all 40 attributes.
        epochs: passes of the training over the drawn faces.
        seed: seed of everything.
    """

    images: int = field(default=1500, metadata={"short": "-n"})
    splits: tuple[float, float, float] = (0.6, 0.1, 0.3)
    agreement: float = 0.9
    attribute: str = "Wearing_Lipstick"
    other: str = "Heavy_Makeup"
    region: str = "mouth"
    model: str = "small"
    size: int = 96
    fit: Fit = "face"
    epochs: int = 10
    batch_size: int = 16
    lr: float = 0.2
    clip: float = 1.0
    schedule: Schedule = "cosine"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("images", 20), ("size", 16), ("epochs", 1), ("batch_size", 1)):
            check.at_least(name, getattr(self, name), least)

    def attention(self) -> StartConfig:
        """The same for the attention network: its own size and loss."""
        return replace(self, model="attention", **of_network("attention"), batch_size=32)


@dataclass(frozen=True)
class StudioConfig:
    """Settings of ``fastcam studio``.

    Attributes:
        host: address to listen on. Another than this machine's own (127.0.0.1) needs a token, and
            whoever has that can see the images and train on this machine.
        port: port to listen on; 0 takes a free one.
        token: word that the address must carry (``/?token=…``) where ``host`` is not this machine
            alone: 8 or more of A-Z, a-z, 0-9, "-", ".", "_" and "~"; made up if it is not given.
        max_files: images that a person may have uploaded.
        max_megabytes: size of one uploaded file.
        max_megapixels: pixels of one uploaded image.
        survey_images: test images that are looked at for one attribute.
        reliance_images: of these, images in which regions are hidden.
        jobs: fine-tunings at a time, of all who are here; what is begun beyond that waits.
    """

    host: str = "127.0.0.1"
    port: int = 8731
    token: str | None = None
    max_files: int = 12
    max_megabytes: float = 20.0
    max_megapixels: float = 40.0
    survey_images: int = 300
    reliance_images: int = 60
    jobs: int = 2

    def __post_init__(self) -> None:
        check.number("port", self.port, "from 0 to 65535", lambda n: 0 <= n <= 65535)
        for name in ("max_files", "survey_images", "reliance_images", "jobs"):
            check.at_least(name, getattr(self, name), 1)
        for name in ("max_megabytes", "max_megapixels"):
            check.number(name, getattr(self, name), "above 0", lambda x: x > 0)
        if self.token is not None and len(self.token) < 8:
            raise ValueError(f"token: expected 8 characters or more, got {len(self.token)}")
        # These alone stand for themselves in an address and in a cookie.
        other = re.sub(r"[A-Za-z0-9._~-]", "", self.token or "")
        if other:
            raise ValueError(
                "token: expected characters of A-Z, a-z, 0-9, '-', '.', '_' and '~' alone, "
                f"got {other[0]!r}"
            )

    @property
    def exposed(self) -> bool:
        """Whether other machines can reach it."""
        return self.host not in LOOPBACK
