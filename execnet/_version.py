"""The version of the distribution, read by setuptools and by users."""

version = "2.2.0"
__version__ = version
version_tuple = __version_tuple__ = tuple(int(part) for part in version.split("."))
