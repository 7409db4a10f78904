"""Helpers that every part of fastcam may import; they import nothing else of it."""
