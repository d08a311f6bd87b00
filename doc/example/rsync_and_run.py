"""Copy a folder of code to where a gateway leads, and call a function of it there."""

import execnet


def call(channel, folder):
    import sys

    sys.path.insert(0, folder)
    import report

    for name in channel:
        channel.send(report.greeting(name))


if __name__ == "__main__":
    with execnet.Group(["popen//chdir=elsewhere"]) as group:  # or ssh=user@host
        rsync = execnet.RSync("reports")
        for gateway in group:
            rsync.add_target(gateway, "code/reports", delete=True)
        rsync.send()
        channels = group.remote_exec(call, folder="code/reports")
        channels.send_each("execnet")
        print(channels.receive_each(timeout=30))
