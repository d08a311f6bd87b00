"""Give tasks to whichever of three processes is free."""

import execnet


def solve(channel):
    """Answer each number with its smallest divisor; None ends the work."""
    channel.send("ready")
    for number in iter(channel.receive, None):
        divisor = 2
        while number % divisor:
            divisor += 1
        channel.send((number, divisor))


def distribute(group, tasks):
    """Yield the answers to `tasks` in the order in which they are found."""
    channels = group.remote_exec(solve)
    queue = channels.make_receive_queue(endmarker=None)
    remaining = iter(tasks)
    running = len(channels)
    while running:
        channel, answer = queue.get(timeout=30)
        if answer is None:
            channel.waitclose(timeout=10)  # raises the far error, if that is what ended it
            running -= 1
            continue
        if answer != "ready":
            yield answer
        channel.send(next(remaining, None))


if __name__ == "__main__":
    group = execnet.Group(["popen"] * 3)
    numbers = [7919, 1001, 35, 999983, 289]
    for number, divisor in sorted(distribute(group, numbers)):
        factors = f"= {divisor} * {number // divisor}"
        print(number, "is prime" if number == divisor else factors)
    group.terminate(timeout=5)
