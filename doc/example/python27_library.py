"""Call a library that runs on Python 2.7 only."""

import execnet


def serve(channel):
    """Runs on Python 2.7: answers each name by (price, None) or (None, error)."""
    import prices

    for name in channel:
        try:
            channel.send((prices.half_price(name), None))
        except LookupError as error:
            channel.send((None, str(error)))


if __name__ == "__main__":
    with execnet.makegateway("popen//python=python2.7//chdir=legacy") as gateway:
        channel = gateway.remote_exec(serve)
        for name in ("nut", "washer"):
            channel.send(name)
            price, error = channel.receive(timeout=30)
            print(name, error or price)
