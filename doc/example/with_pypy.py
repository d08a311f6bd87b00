"""Do the number crunching on PyPy."""

import execnet


def count_primes(channel, below):
    sieve = bytearray([1]) * below
    sieve[0:2] = b"\0\0"
    for number in range(2, int(below**0.5) + 1):
        if sieve[number]:
            multiples = range(number * number, below, number)
            sieve[number * number :: number] = bytes(len(multiples))
    channel.send(sum(sieve))


gw = execnet.makegateway("popen//python=pypy3")
channel = gw.remote_exec("import platform; channel.send(platform.python_implementation())")
print(channel.receive(timeout=20))
print(gw.remote_exec(count_primes, below=1_000_000).receive(timeout=60), "primes")
