"""Let Python 2.7 work for a program that runs on Python 3."""

import execnet


def legacy_report(channel):
    import sys

    channel.send(sys.version_info[:2])
    channel.send("a str")
    channel.send("b\xfctes")
    channel.send(b"unicode: \xe2\x82\xac".decode("utf-8"))
    channel.send(2**70)
    for item in channel:
        channel.send(type(item).__name__)


gw = execnet.makegateway("popen//python=python2.7")
channel = gw.remote_exec(legacy_report)
for _ in range(5):
    print(repr(channel.receive(timeout=10)))

for item in ("text", b"bytes", 1, [2.5]):
    channel.send(item)
    print(type(item).__name__, "arrives as", channel.receive(timeout=10))

gw.reconfigure(py2str_as_py3str=False)
channel = gw.remote_exec("channel.send('a str')")
print(repr(channel.receive(timeout=10)))
