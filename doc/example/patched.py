import gevent.monkey

gevent.monkey.patch_all()

import gevent  # noqa: E402

import execnet  # noqa: E402

ticks = []


def tick():
    while True:
        ticks.append(None)
        gevent.sleep(0.01)


gevent.spawn(tick)
with execnet.makegateway() as gateway:
    channel = gateway.remote_exec("import time; time.sleep(1); channel.send('awake')")
    print(channel.receive())
print("other greenlets ran meanwhile:", len(ticks) > 10)
