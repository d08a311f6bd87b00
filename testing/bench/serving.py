"""The far side of every link: it echoes, sends or receives as it is told.

Also sent to execnet's workers as it is, so it imports nothing.
"""

ITEM = 42
BLOCK_SIZE = 1 << 20


def serve(send, receive):
    """Do what is asked, as (what, count), until a count of 0."""
    block = b"\x5a" * BLOCK_SIZE
    while True:
        what, count = receive()
        if not count:
            return
        many = range(count)
        if what == "echo":
            for _ in many:
                send(receive())
        elif what == "send":
            for _ in many:
                send(ITEM)
        elif what == "receive":
            for _ in many:
                receive()
            send(None)
        elif what == "send blocks":
            for _ in many:
                send(block)
        else:
            raise ValueError(what)


if __name__ == "__channelexec__":
    serve(channel.send, channel.receive)  # type: ignore  # noqa: F821
