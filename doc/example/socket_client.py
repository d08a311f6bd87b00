"""Run code in the socket server whose host:port is the argument."""

import sys

import execnet

gw = execnet.makegateway("socket=" + sys.argv[1])
channel = gw.remote_exec("channel.send(channel.receive().upper())")
channel.send("through a socket")
print(channel.receive(timeout=10))
