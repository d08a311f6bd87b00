"""The commands of ``execnet`` and ``python -m execnet``, a file each; `execnet.__main__` picks the one asked for."""
