"""Fetch files through a gateway: imported here, executed there."""

PIECE_BYTES = 1 << 16


def serve(requests):
    """Answer each `(path, channel)` with the pieces of the file, or close it with the error."""
    for path, answer in requests:
        try:
            with open(path, "rb") as file:
                for piece in iter(lambda: file.read(PIECE_BYTES), b""):
                    answer.send(piece)
        except OSError as error:
            answer.close(str(error))
        else:
            answer.close()


class RemoteFiles:
    """The files that the far side of `gateway` can read."""

    def __init__(self, gateway):
        import file_server

        self._gateway = gateway
        self._requests = gateway.remote_exec(file_server)

    def fetch(self, path, target):
        """Copy the far file `path` into the file `target` and return its size in bytes.

        Raises OSError if it can't be read.
        """
        answer = self._gateway.newchannel()
        self._requests.send((path, answer))
        with open(target, "wb") as file:
            try:
                return sum(file.write(piece) for piece in answer)
            except answer.RemoteError as error:
                raise OSError(str(error)) from None


if __name__ == "__channelexec__":
    serve(channel)  # noqa: F821
