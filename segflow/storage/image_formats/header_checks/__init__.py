"""Strict looks at headers before a library sees the file: a function ``check_<format>(file)`` for each format.

Each returns the bytes of the voxels that the header asks for, and raises `SegflowError` where the header contradicts
itself or the file's size, asks for more than memory holds, or names files that do not lie beside it.
"""
