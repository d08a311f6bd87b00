"""Ask several interpreters who they are."""

import execnet


def introduce(channel):
    import os
    import platform

    channel.send((channel.gateway.id, platform.python_implementation(), os.getpid()))


group = execnet.Group(["popen//id=first", "popen//id=second"])
pids = set()
for channel in group.remote_exec(introduce):
    name, implementation, pid = channel.receive(timeout=10)
    pids.add(pid)
    print(f"{name} is a {implementation}")
print(len(pids), "processes")
group.terminate(timeout=5)
