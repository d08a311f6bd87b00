"""A server that gives an interpreter to whoever connects, for ``socket=host:port`` gateways.

``python -m execnet.script.socketserver [host:port]``, by default on port 8888 of all
interfaces: anyone who can connect can execute anything, so give a host that only you reach.
Where the system can fork, every connection gets its own process. Run through ``remote_exec`` it
receives ``(host, port)``, answers the address it listens on, and serves one connection.

Readable by every Python from 2.7 on, alone.
"""

from __future__ import print_function  # noqa: UP010

import os
import sys
import traceback

PROGRAM = "execnet socketserver"
DEFAULT = ":8888"


def log(*what):
    """Say what goes on, at once: who starts a server waits for its address."""
    print(PROGRAM, *what)
    sys.stdout.flush()


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


def exec_from_one_connection(serversock):
    """Accept one connection and execute, here, the source that its first line evaluates to."""
    clientsock, address = serversock.accept()
    log("got new connection from", *address[:2])
    execute_from(clientsock, address)


def execute_from(clientsock, address):
    """Execute what ``clientsock`` sends, with it and ``address`` as globals; closes it at the end."""
    try:
        stream = clientsock.makefile("rb")
        line = stream.readline()
        stream.close()
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
            try:
                exec_from_one_connection(serversock)
            except Exception:
                traceback.print_exc()  # the next one may be luckier
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
            clientsock, address = serversock.accept()
            log("got new connection from", *address[:2])
            if os.fork():
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
                traceback.print_exc()
    finally:
        signal.signal(signal.SIGCHLD, former)


def main():
    """Serve for ever on the address given on the command line."""
    if any(arg in ("-h", "--help") for arg in sys.argv[1:]) or len(sys.argv) > 2:
        print("usage: %s [host:port]   (default %s)" % (PROGRAM, DEFAULT))
        return
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
        del sys.path[0]  # run by path: these scripts must not stand for the standard library's socketserver
    main()
