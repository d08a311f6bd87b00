"""Tasks that do not end by themselves, and one that does: each first sends its process id."""

IDLE = "import os; channel.send(os.getpid())"
SLEEPING = f"{IDLE}; import time; time.sleep(1000)"
SWALLOWING = f"""{IDLE}
import time
while True:
    try:
        time.sleep(1000)
    except BaseException:
        pass
"""
LOOPING = f"{IDLE}\nwhile True: pass"
C_LOOPING = f"{IDLE}; sum(range(10**12))"
DEAF = f"""{IDLE}
import signal, time
for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)
time.sleep(1000)
"""
SENDING = f"{IDLE}\nwhile True: channel.send(b'x' * 100000)"
BLOCKED_IN_SEND = f"{IDLE}; channel.receive(); channel.send(1); channel.send(b'x' * (64 << 20))"
