"""The studio's pages, one module each; NiceGUI is imported here and in ``app`` alone."""
