"""A server that gives an interpreter to whoever connects, for ``socket=host:port`` gateways.

``python -m execnet.script.socketserver [host:port]``, by default on port 8888 of all
interfaces: anyone who can connect can execute anything, so give a host that only you reach.
Where the system can fork, every connection gets its own process. Run through ``remote_exec`` it
receives ``(host, port)``, answers the address it listens on, and serves one connection.

Readable by every Python from 2.7 on, alone.
"""

from __future__ import print_function  # noqa: UP010

import errno
import os
import sys
import time
import traceback

PROGRAM = "execnet socketserver"
DEFAULT = ":8888"
MOST_LINE_BYTES = 4 << 20  # of the first line: many times what an initiator sends
LINE_SECONDS = 60.0  # in which that line must have come
LOOK = 0.5  # seconds after which a waiting server looks for signals, should one have come just before it waited
PAUSE = 1.0  # seconds before another try where processes or descriptors ran out
LOST = (errno.EBADF, errno.EINVAL, getattr(errno, "ENOTSOCK", errno.EBADF))  # the listening socket is gone


def log(*what):
    """Say what goes on, at once: whoever starts a server waits for its address."""
    say(sys.stdout, *what)


def say(stream, *what):
    """Print, unless nobody can read it: a full disk or a closed pipe is no reason for a server to end."""
    try:
        print(PROGRAM, *what, file=stream)
        stream.flush()
    except (AttributeError, IOError, OSError, ValueError):  # noqa: UP024 -- None, failing, failing, closed
        pass


def complain():
    """Say which exception there is now."""
    say(sys.stderr, traceback.format_exc())


def bind_and_listen(hostport, execmodel=None):
    """A socket that listens on ``"host:port"`` or ``(host, port)``; no host means all interfaces.

    It comes from ``execmodel.socket``, if given. Raises ValueError for an address that is no
    ``host:port``, OSError where it can't be had.
    """
    if execmodel is None:
        import socket
    else:
        socket = execmodel.socket
    if not isinstance(hostport, tuple):
        host, colon, port = hostport.rpartition(":")
        if not colon or not port.isdigit():
            raise ValueError("not host:port: %r" % (hostport,))
        hostport = host, int(port)
        if hostport[1] > 65535:
            raise ValueError("no port: %s" % port)
    host, port = hostport
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    serversock = socket.socket(family, socket.SOCK_STREAM)
    try:
        serversock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        serversock.bind((host.strip("[]"), port))
        serversock.listen(5)
    except BaseException:
        serversock.close()
        raise
    return serversock


def accept(serversock):
    """The next connection as (socket, address), however long it takes to get one."""
    while True:
        try:
            clientsock, address = serversock.accept()
        except (IOError, OSError) as error:  # noqa: UP024 -- two classes on Python 2
            if error.errno in LOST:
                raise
            say(sys.stderr, "cannot accept a connection:", error)
            time.sleep(PAUSE)
        else:
            log("got new connection from", *address[:2])
            return clientsock, address


def await_connection(serversock):
    """Wait until somebody connects, or `accept` can tell what is wrong; a signal never has to wait for that."""
    import select

    try:
        while not select.select([serversock], [], [], LOOK)[0]:
            pass
    except (ValueError, IOError, OSError, select.error):  # noqa: UP024
        pass


def exec_from_one_connection(serversock):
    """Accept one connection and execute, here, the source that its first line evaluates to."""
    execute_from(*accept(serversock))


def read_line(sock):
    """The first line that ``sock`` gets, empty where it ends before; raises IOError if it doesn't end in time.

    More than the line is not kept: whoever connects waits for an answer to it.
    """
    received = bytearray()
    deadline = time.time() + LINE_SECONDS
    while True:
        sock.settimeout(max(0.001, deadline - time.time()))
        chunk = sock.recv(65536)
        line, newline, _ = chunk.partition(b"\n")
        received += line
        if len(received) > MOST_LINE_BYTES:
            raise IOError("it has more than %d bytes" % MOST_LINE_BYTES)  # noqa: UP024
        if newline or not chunk:
            sock.settimeout(None)
            return bytes(received)


def refuse(sock, reason):
    """Tell whoever has connected, and stderr, why there is no interpreter; closes ``sock``."""
    import socket

    say(sys.stderr, reason)
    deadline = time.time() + PAUSE
    try:
        sock.settimeout(PAUSE)
        sock.sendall(("%s %s\n" % (PROGRAM, reason)).encode("ascii", "backslashreplace"))
        sock.shutdown(socket.SHUT_WR)
        # Closed with something unread, the connection would be reset, and the reason lost.
        while time.time() < deadline and sock.recv(65536):
            pass
    except (IOError, OSError):  # noqa: UP024
        pass  # nobody wants to know
    sock.close()


def execute_from(clientsock, address):
    """Execute what ``clientsock`` sends, with it and ``address`` as globals; closes it at the end."""
    try:
        try:
            line = read_line(clientsock)
        except (IOError, OSError) as error:  # noqa: UP024
            refuse(clientsock, "cannot take the first line: %s" % error)
            return
        if not line:
            return
        source = eval(line.decode("utf-8"))
        namespace = {"__name__": "__main__", "clientsock": clientsock, "address": address}
        execmodel = find_execmodel()
        if execmodel is not None:
            namespace["execmodel"] = execmodel
        exec(compile(source + "\n", "<execnet socketserver>", "exec"), namespace)
    finally:
        clientsock.close()
        log("finished with", *address[:2])


def find_execmodel():
    """The execution model that an older initiator's text asks us for, None where there is none."""
    if __name__ == "__channelexec__":
        return channel.gateway.execmodel  # noqa: F821
    try:
        from execnet.gateway_base import get_execmodel
    except (ImportError, SyntaxError):
        return None  # run by path, and this Python has no execnet that it can read
    return get_execmodel("thread")


def startserver(serversock, loop=False, fork=False):
    """Serve one connection, or with ``loop`` one after another until interrupted.

    With ``fork`` each gets a process of its own; that needs the main thread. Closes ``serversock``.
    """
    try:
        if loop and fork:
            fork_loop(serversock)
            return
        log("Entering Accept loop", serversock.getsockname()[:2])
        while loop:
            connection = accept(serversock)
            try:
                execute_from(*connection)
            except Exception:
                complain()  # the next one may be luckier
        exec_from_one_connection(serversock)
    finally:
        serversock.close()


def fork_loop(serversock):
    """Serve each connection in a child process, which returns from here when it is done."""
    import signal

    server = os.getpid()
    # Children that nobody waits for leave no zombies.
    former = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        log("Entering Accept loop", serversock.getsockname()[:2])
        while os.getpid() == server:
            await_connection(serversock)
            clientsock, address = accept(serversock)
            try:
                child = not os.fork()
            except OSError as error:
                refuse(clientsock, "cannot start a process: %s" % error)
                time.sleep(PAUSE)
                continue
            if not child:
                clientsock.close()
                continue
            signal.signal(signal.SIGCHLD, former)
            serversock.close()
            try:
                execute_from(clientsock, address)
            except KeyboardInterrupt:  # quitserver means the server
                if os.getppid() == server:
                    os.kill(server, signal.SIGINT)
            except Exception:
                complain()
    finally:
        signal.signal(signal.SIGCHLD, former)


def hold_standard_streams():
    """Let no connection get the number of a closed one: what is run here, and programs it starts, write to these."""
    if not hasattr(os, "dup"):  # Jython, whose descriptors are no numbers
        return
    descriptor = 0
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


def main():
    """Serve for ever on the address given on the command line."""
    if any(arg in ("-h", "--help") for arg in sys.argv[1:]) or len(sys.argv) > 2:
        print("usage: %s [host:port]   (default %s)" % (PROGRAM, DEFAULT))
        return
    hold_standard_streams()
    hostport = sys.argv[1] if len(sys.argv) > 1 else DEFAULT
    try:
        serversock = bind_and_listen(hostport, find_execmodel())
    except (ValueError, IOError, OSError) as error:  # noqa: UP024
        sys.exit("%s: cannot listen on %s: %s" % (PROGRAM, hostport, error))
    try:
        startserver(serversock, loop=True, fork=hasattr(os, "fork"))
    except KeyboardInterrupt:
        log("leaving")


if __name__ == "__channelexec__":
    listening = bind_and_listen(channel.receive(), channel.gateway.execmodel)  # noqa: F821
    channel.send(listening.getsockname()[:2])  # noqa: F821
    startserver(listening)
elif __name__ == "__main__":
    if os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]  # run by path: this folder must not replace the standard library's socketserver
    main()
