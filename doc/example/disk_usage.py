"""How much lies below a folder: imported here, executed there."""

import os


def usage(path):
    """Count the files below `path` and add up their bytes."""
    files = size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            files += 1
            size += os.lstat(os.path.join(folder, name)).st_size
    return {"path": path, "files": files, "bytes": size}


if __name__ == "__channelexec__":
    for path in channel:  # noqa: F821
        channel.send(usage(path))  # noqa: F821
