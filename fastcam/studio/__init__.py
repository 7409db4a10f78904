"""The studio: a web application in which a person points at where a network should look.

Its parts, from the bottom: ``settings`` (plain values), ``home`` and ``session`` (its folder),
``jobs`` and ``worker`` (long work in processes of their own, whose state is files), ``work`` (what
they do), ``survey``, ``regions``, ``recipes``, ``judging``, ``commands`` (what the pages show, as
plain data), ``pictures`` and ``drawing`` (images and SVG); and, on top, ``gate``, ``app`` and
``pages``, which alone know NiceGUI.
"""
