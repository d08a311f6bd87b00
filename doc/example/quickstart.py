"""Count the words of some texts, in two further processes."""

import execnet


def count_words(channel):
    """Runs in the other processes: answers each text with the number of its words."""
    import re  # a function brings its imports along

    for text in channel:
        channel.send(len(re.findall(r"\w+", text)))


if __name__ == "__main__":
    with execnet.Group(["popen"] * 2) as group:
        channels = group.remote_exec(count_words)
        channels[0].send("a spec, a gateway, a channel")
        channels[1].send("and nothing else")
        print(channels.receive_each(timeout=30))
