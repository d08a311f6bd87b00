"""Call a function with many arguments, in several processes; errors have their place."""

from contextlib import suppress

import execnet


def work(channel):
    """Runs in each worker: answers (number, argument) by (number, error, result)."""
    import traceback

    def function(text):  # what is to be done, with all that it needs
        return round(100 / int(text))

    for number, argument in channel:
        try:
            answer = (number, None, function(argument))
        except Exception:
            answer = (number, traceback.format_exc(), None)
        channel.send(answer)


def parallel_map(arguments, workers=3):
    """Yield (argument, error, result) as they come; the error is a text, or None."""
    waiting = list(enumerate(arguments))
    unanswered = len(waiting)
    with execnet.Group(["popen"] * workers) as group:
        channels = group.remote_exec(work)
        answers = channels.make_receive_queue(endmarker="the worker has ended")
        for channel in channels:
            if waiting:
                channel.send(waiting.pop())
        while unanswered:
            channel, answer = answers.get()
            if answer == "the worker has ended":
                channel.waitclose()  # raises what ended it
            number, error, result = answer
            unanswered -= 1
            if waiting:
                with suppress(OSError):  # the worker has ended, which is the next answer
                    channel.send(waiting.pop())
            yield arguments[number], error, result


if __name__ == "__main__":
    for text, error, result in sorted(parallel_map(["20", "7", "0", "ten"])):
        print(text, "->", error.splitlines()[-1] if error else result)
