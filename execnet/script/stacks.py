"""The stacks of all threads of a worker: this source is sent to it, and run there with a line that calls a function.

It imports nothing that may not be there already: a thread may be stuck within an import.
"""

import sys


def tell(gateway):
    """A line for each task of the gateway, then the stack of each thread, most recent call first."""
    if gateway._connection is not None:
        gateway._connection.prepare_stacks()
    own = gateway.execmodel.get_ident()
    frames = gateway._execute.__func__.__globals__["thread_frames"]()
    stacks = [(ident, frame) for ident, frame in sorted(frames.items()) if ident != own]
    lines = ["Process %s: Python %s" % (_pid(), sys.version.split()[0])]
    lines.extend(_tasks(gateway, stacks))
    if not frames:
        lines.append("This Python does not tell where its threads stand, or has other interpreters, too.")
    for ident, frame in stacks:
        lines.extend(_stack(ident, frame))
    return "\n".join(_text(line) for line in lines) + "\n"


def prepare(gateway):
    """Have the C core tell the stacks when Python code can't."""
    if gateway._connection is not None:
        gateway._connection.prepare_stacks()
    return ""


def _pid():
    os = sys.modules.get("os")
    return os.getpid() if hasattr(os, "getpid") else "?"


def _tasks(gateway, stacks):
    """The tasks that run, found by the function that each of them runs in."""
    code, now = gateway._execute.__func__.__code__, gateway._execute.__func__.__globals__["now"]
    running = set()
    for ident, frame in stacks:
        while frame is not None and frame.f_code is not code:
            frame = frame.f_back
        known = frame.f_locals if frame is not None and frame.f_locals.get("self") is gateway else {}
        if "begun" in known:
            channel, function = known["channel"].id, known["funcname"]
            running.add(channel)
            name = known["filename"] + (", %s()" % function if function else "")
            told = (channel, now() - known["begun"], ident, name)
            yield "Task of channel %d, for %.1f seconds in thread 0x%016x: %s" % told
    for channel in sorted(channel.id for channel in list(gateway._tasks)):
        if channel not in running:
            yield "Task of channel %d: not in a thread of its own" % channel


def _stack(ident, frame):
    yield ""
    yield "Thread 0x%016x%s (most recent call first):" % (ident, _name(ident))
    linecache = sys.modules.get("linecache")
    while frame is not None:
        code = frame.f_code
        yield '  File "%s", line %s in %s' % (code.co_filename, frame.f_lineno, code.co_name)
        text = linecache.getline(code.co_filename, frame.f_lineno).strip() if linecache else ""
        if text:
            yield "    " + text
        frame = frame.f_back


def _name(ident):
    # threading.enumerate() takes a lock.
    thread = dict(getattr(sys.modules.get("threading"), "_active", {})).get(ident)
    return "" if thread is None else " [%s]" % thread.name


def _text(line):
    return line.decode("utf-8", "replace") if isinstance(line, bytes) else line
