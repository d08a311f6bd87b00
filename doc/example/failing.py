"""What an error on the far side looks like here."""

import execnet


def divide(channel, by):
    for number in channel:
        channel.send(number / by)


gw = execnet.makegateway()
channel = gw.remote_exec(divide, by=0)
channel.send(1)
try:
    channel.receive(timeout=10)
except channel.RemoteError as error:
    print(error)
