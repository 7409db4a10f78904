"""What every other part may use, and nothing of fastcam that it needs."""
