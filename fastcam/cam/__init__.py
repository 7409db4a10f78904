"""From the logits of a forward to the Grad-CAM of its layer: tap, head, gradients, maps."""
