"""Parts of work that take different times, each for whichever of three processes is free."""

import execnet


def work(channel):
    """Work for each of the numbers of seconds that come."""
    import time

    for seconds in channel:
        time.sleep(seconds)
        channel.send(seconds)


if __name__ == "__main__":
    parts = [0.1, 0.05, 0.2, 0.1, 0.25, 0.1, 0.3, 0.05, 0.15, 0.2]
    count = len(parts)
    with execnet.Group(["popen"] * 3) as group:
        channels = group.remote_exec(work)
        queue = channels.make_receive_queue()
        for channel in channels:
            channel.send(parts.pop())
        for _ in range(count):
            channel, seconds = queue.get(timeout=30)
            if parts:
                channel.send(parts.pop())
            else:
                channel.close()
    print(count, "parts are done")
