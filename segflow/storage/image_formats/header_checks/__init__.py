"""Strict checks of headers before a library opens the file: a function ``check_<format>(file)`` for each format.

Each returns the number of bytes of the voxels that the header describes. It raises `SegflowError` if the header
contradicts itself or the file's size, needs more than the memory, or names files that do not lie beside it.
"""
