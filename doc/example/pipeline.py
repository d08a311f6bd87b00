"""What one worker finds is worked on by the next one."""

import execnet


def find(channel, below):
    """First stage: sends numbers, and ends."""
    for number in range(2, below):
        if all(number % divisor for divisor in range(2, number)):
            channel.send(number)


def square(channel):
    """Second stage: answers each number, until the channel is closed."""
    for number in channel:
        channel.send(number * number)


if __name__ == "__main__":
    with execnet.Group(["popen//id=first", "popen//id=second"]) as group:
        found = group["first"].remote_exec(find, below=12)
        squares = group["second"].remote_exec(square)
        for number in found:  # as they come, and raising what fails there
            squares.send(number)
            print(number, squares.receive(timeout=30))
