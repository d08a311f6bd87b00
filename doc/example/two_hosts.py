"""Ask two hosts whether they have disk space; one is down, and the other one answers."""

import execnet

HOSTS = ["build1", "build2"]


def free_space(channel, path):
    import os

    status = os.statvfs(path)
    channel.send(status.f_bavail * status.f_frsize)


if __name__ == "__main__":
    spec = "ssh={0}//id={0}//ssh_config=hosts.conf//python=python3"
    specs = [spec.format(host) for host in HOSTS]
    with execnet.Group() as group:
        started = group.makegateways(specs, timeout=30, return_errors=True)
        for host, gateway in zip(HOSTS, started):
            if isinstance(gateway, Exception):
                print(host, "is left out:", type(gateway).__name__)
        channels = group.remote_exec(free_space, path="/")
        for channel, size in channels.receive_each(withchannel=True, timeout=30):
            print(channel.gateway.id, "has space" if size else "is full")
