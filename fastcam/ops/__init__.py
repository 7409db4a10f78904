"""The native ops: their library, checks of arguments, and their autograd functions."""
