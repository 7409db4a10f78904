"""From the logits of a forward to the Grad-CAM of its layer: tap, head, gradients, maps.

:class:`Tokens` reads a vision transformer's tokens as a map, for the tap's ``reshape``.
"""

from fastcam.cam.layout import Tokens

__all__ = ["Tokens"]
