"""The attention network: its masks, what (n, β) does to them, and noise."""

from __future__ import annotations

import numpy as np
from nicegui import ui

from fastcam.analysis.subject import attention_network
from fastcam.report.numbers import number, percent
from fastcam.studio.core import Studio
from fastcam.studio.drawing import curves_svg
from fastcam.studio.masks import mask_view, noise_curves, tone
from fastcam.studio.pages import widgets as w
from fastcam.studio.pages.parts import Part, aside
from fastcam.studio.pages.shell import People, page
from fastcam.studio.pictures import colored, data_url, png


class AttentionPage:
    """The page of one visit."""

    def __init__(self, studio: Studio, people: People) -> None:
        self.studio, self.session = studio, people.here()
        self.n, self.beta, self.sigma, self.row = 1.0, 0.0, 0.0, 0
        self.attribute = ""
        self.channel: int | None = None

    def build(self) -> None:
        """Lay the page out."""
        lead = (
            "The attention network (Kimura and Tanaka) has a mask for every attribute and channel. "
            "Without training it again, n and β change what the masks do."
        )
        with page("/attention", "Attention masks", lead):
            self.body = Part(self.build_body, id="attention")

    async def build_body(self) -> None:
        """The network, or what makes one."""
        if not self.studio.has_attention(self.session):
            self.build_training()
            return
        subject = await aside(self.studio.attention, self.session)
        names = list(subject.checkpoint.attributes)
        if self.attribute not in names:
            self.attribute = self.session.attribute if self.session.attribute in names else names[0]
        with w.tag("div", "bar card"):
            shown = {n: n.replace("_", " ") for n in names}
            w.select("Attribute", shown, self.attribute, self.choose, id="attribute")
            channels = range(attention_network(subject.checkpoint).channels)
            each = {"": "those that matter most", **{str(c): f"channel {c}" for c in channels}}
            chosen = "" if self.channel is None else str(self.channel)
            w.select("Masks", each, chosen, self.choose_channel, id="channel")
            w.slider("n (sharpness)", self.n, self.set_n, id="n", low=0, high=8, step=0.25)
            w.slider(
                "β (suppression)", self.beta, self.set_beta, id="beta", low=0, high=2, step=0.1
            )
            w.slider("σ of the noise", self.sigma, self.set_sigma, id="sigma", low=0, high=0.5,
                     step=0.05)  # fmt: skip
            w.number("Image", self.row + 1, self.set_row, id="row", low=1, high=len(subject.faces))
        with w.tag("div", "two"):
            with w.tag("section", "card", aria_label="One image"):
                self.masks = Part(self.build_masks, id="masks")
            with w.tag("div"):
                with w.tag("section", "card", aria_label="Tone curve"):
                    self.curve = Part(self.build_curve, id="tone")
                with w.tag("section", "card", aria_label="Noise"):
                    self.noise = Part(self.build_noise, id="noise")

    def build_training(self) -> None:
        """Make a network, with a bar."""
        job = self.studio.attention_job
        if not job.exists or job.state().status in ("failed", "cancelled", "paused"):
            message = job.state().message if job.exists else ""
            if message:
                w.alert(f"This did not work: {message}")
            with w.tag("div", "card empty"):
                w.tag("p", text="There is no attention network yet. A small one is trained on the "
                                "drawn faces, once.")  # fmt: skip
                w.button("Train it", self.train, main=True, id="train-attention")
            return
        with w.tag("div", "card"):
            show = w.progress(job)

        def look() -> None:
            if not show().active:
                timer.deactivate()
                self.body.refresh()

        timer = ui.timer(0.5, look)

    def train(self) -> None:
        """Train it."""
        self.studio.begin_attention()
        self.body.refresh()

    # --- choices ----------------------------------------------------------------------------------

    def choose(self, name: str) -> None:
        """Another attribute."""
        self.attribute = name
        self.masks.refresh()

    def choose_channel(self, text: str) -> None:
        """One channel's mask, or those that matter most."""
        self.channel = int(text) if text.isdecimal() else None
        self.masks.refresh()

    def set_n(self, text: str) -> None:
        """Another n."""
        self.n = min(max(float(text), 0.0), 8.0)
        self.transformed()

    def set_beta(self, text: str) -> None:
        """Another β."""
        self.beta = min(max(float(text), 0.0), 2.0)
        self.transformed()

    def transformed(self) -> None:
        """Show what the masks do now."""
        self.curve.refresh()
        self.masks.refresh()
        self.noise.refresh()

    def set_sigma(self, text: str) -> None:
        """More noise or less."""
        self.sigma = min(max(float(text), 0.0), 1.0)
        self.masks.refresh()

    def set_row(self, text: str) -> None:
        """Another image."""
        try:
            self.row = max(int(float(text)) - 1, 0)
        except ValueError:
            return
        self.masks.refresh()

    # --- what is shown ----------------------------------------------------------------------------

    async def build_masks(self) -> None:
        """The noisy image and the masks that matter most."""
        subject = await aside(self.studio.attention, self.session)
        row = min(self.row, len(subject.faces) - 1)
        view = await aside(
            self.studio.alone,
            lambda: mask_view(
                subject.checkpoint, subject.faces, row, self.attribute, n=self.n, beta=self.beta,
                sigma=self.sigma, channel=self.channel,
            ),
        )  # fmt: skip
        name = self.attribute.replace("_", " ")
        w.tag("h2", text=f"{name}, image {row + 1}")
        with w.tag("div", "two"):
            w.image(data_url(png(view.image)), "the image with its noise",
                    f"noise σ = {self.sigma:g}", id="noisy")  # fmt: skip
            with w.tag("div"):
                w.text(f"{name}: {percent(view.score, 0)}", "", id="score")
                w.text(f"As trained (n = 1, β = 0): {percent(view.plain, 0)}.")
        if self.channel is None:
            w.text("The masks that change the score of this image most, and by how much (logit).")
        else:
            w.text("The channel's mask, and what it changes in the score (logit).")
        with w.tag("div", "three", id="top-masks"):
            for channel, mask, by in zip(view.channels, view.masks, view.changes, strict=True):
                cam = np.clip(mask, 0, 1).astype(np.float32)
                url = data_url(png(colored(cam, "viridis")))
                low, high = float(mask.min()), float(mask.max())
                change = number(by, 3, sign=True)
                caption = f"channel {channel}: {change}; {low:.2f} to {high:.2f}"
                w.image(url, f"mask of channel {channel}", caption)

    def build_curve(self) -> None:
        """The tone curve."""
        w.tag("h2", text="What becomes of a mask")
        lines = {"as trained": tone(1.0, 0.0), "now": tone(self.n, self.beta)}
        w.svg(curves_svg(lines, f"Tone curve, n = {self.n:g}, β = {self.beta:g}", x_label="mask M",
                         y_label="g(M; n, β)", x_range=(0, 1)))  # fmt: skip

    async def build_noise(self) -> None:
        """Accuracy against noise."""
        subject = await aside(self.studio.attention, self.session)
        few = subject.few
        lines = await aside(
            self.studio.alone, lambda: noise_curves(subject.checkpoint, few, self.n, self.beta)
        )
        w.tag("h2", text="Accuracy under noise")
        w.svg(curves_svg(lines, "Accuracy by noise", x_label="σ of the noise", y_label="%",
                         marks=True))  # fmt: skip
        w.text(
            f"Mean of {len(subject.checkpoint.attributes)} attributes over {len(few)} test images; "
            "n = 0 makes every mask constant and is the control of any gain.", id="noise-n",
        )  # fmt: skip
