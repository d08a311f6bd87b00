"""What one side of a gateway notes for a timeline, on either side, and how a worker hands it over.

The initiator has this source run as a task, on any Python from 2.7 on (`execnet._timeline.recorder`), and imports it
for its own side. A note is one of a run of items::

    (kind, channel id, number of the first item or -1, count, bytes, begun, ended, spent, thread)

The C core makes them itself; what is here for the portable one only appends. An event is the begin or the end of a
task. Times are seconds of this process's own clock.
"""

import sys
import time
from collections import deque

clock = getattr(time, "monotonic", time.time)

# ARRIVED is a payload that the receiver of the portable core has; with its callback, if it has one.
SENT, RECEIVED, CALLED, WAITED, ARRIVED = range(5)
CHANNEL_DATA = 4
EVERY = 0.2  # seconds between two times that a worker hands over what it has
LAST = 5.0  # seconds that its end waits for a hand-over that is under way: of many notes, or to who does not read
MOST = 32768  # notes kept between two of them
LONGEST_PAUSE, LONGEST_RUN = 0.0001, 0.001  # seconds: between two items of a run, and of all of it


class Notes(object):
    """What is noted of one gateway."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.connection = gateway._connection
        self.notes = deque()
        self.events = deque()
        self.lost = 0
        self.counts = {}
        self.names = {gateway.execmodel.get_ident(): "receiver"}
        gateway._timeline = self

    def start(self):
        """Note from here on."""
        if self.connection is not None:
            self.connection.start_timeline()
            return
        gateway, factory = self.gateway, self.gateway._channelfactory
        self.send, self.receive = gateway._send, factory._local_receive
        gateway._send, factory._local_receive = self.noting_send, self.noting_receive
        note_waits(gateway._send_soon.__func__.__globals__["ItemQueue"])

    def noting_send(self, code, channel=0, data=b""):
        begun = clock()
        is_item = code == CHANNEL_DATA and channel in self.gateway._channelfactory._queues
        self.send(code, channel, data)
        if is_item:
            self.note(SENT, channel, begun, len(data))

    def noting_receive(self, channel, data):
        begun = clock()
        is_awaited = channel in self.gateway._channelfactory._queues
        self.receive(channel, data)
        if is_awaited:
            self.note(ARRIVED, channel, begun, len(data))

    def note(self, kind, channel, begun, size):
        number = -1
        if kind in (SENT, ARRIVED):
            number = self.counts.get((kind, channel), 0)
            self.counts[kind, channel] = number + 1
        if len(self.notes) >= MOST:
            self.lost += 1
            return
        ended = clock()
        thread = self.gateway.execmodel.get_ident()
        self.notes.append((kind, channel, number, 1, size, begun, ended, ended - begun, thread))

    def add(self, what, channel, text=""):
        """Note the begin ("B") or the end ("E") of a task."""
        self.events.append((what, clock(), self.gateway.execmodel.get_ident(), channel, text))

    def take(self):
        """What was noted since the last time: how many notes are lost, the notes, the events, names of threads."""
        lost, self.lost = self.lost, 0
        notes, events = runs(drained(self.notes)), drained(self.events)
        if self.connection is not None:
            lost, notes = self.connection.take_timeline()
        names = {}
        known = getattr(sys.modules.get("threading"), "_active", {})
        for thread in set([note[8] for note in notes] + [event[2] for event in events]):
            name = self.names.get(thread) or getattr(known.get(thread), "name", None)
            if name:
                names[thread] = str(name)
        return lost, notes, events, names


def drained(items):
    found = []
    while items:
        found.append(items.popleft())
    return found


def runs(notes):
    """The notes with those of items that follow each other closely as one, as the C core makes them."""
    found, last = [], {}
    for note in notes:
        kind, channel, first, count, size, begun, ended, spent, thread = note
        place = last.get(thread)
        if place is not None:
            run = found[place]
            if (
                run[:2] == (kind, channel)
                and (run[2] + run[3] == first or first < 0)
                and begun - run[6] < LONGEST_PAUSE
                and ended - run[5] < LONGEST_RUN
            ):
                found[place] = run[:3] + (run[3] + 1, run[4] + size, run[5], ended, run[7] + spent, thread)
                continue
        last[thread] = len(found)
        found.append(note)
    return found


def note_waits(queue_class):
    """Have the queues of the portable core note who waits for an item."""
    take = queue_class.take
    if take.__name__ == "noting_take":
        return

    def noting_take(queue, taken, *args):
        begun = clock()
        take(queue, taken, *args)
        channel = queue.channel()
        notes = channel and getattr(channel.gateway, "_timeline", None)
        if notes:
            is_item = bool(taken) and type(taken[0]) in (bytes, tuple)
            notes.note(RECEIVED if is_item else WAITED, channel.id, begun, 0)

    queue_class.take = noting_take


class Worker(Notes):
    """What a worker notes, which it hands over a few times a second, and the last of it when the tasks have ended."""

    def start(self, data_id):
        """Note from here on; what is noted goes to that channel, of which there is no `Channel`."""
        gateway = self.gateway
        self.data_id = data_id
        self.dumps = gateway._send_soon.__func__.__globals__["dumps_internal"]
        self.names[gateway._main] = "main"
        self.execute, self.before_closing = gateway.executetask, gateway._before_closing
        gateway.executetask, gateway._before_closing = self.noting_task, self.end
        self.over, self.carried = gateway.execmodel.Event(), gateway.execmodel.Event()
        Notes.start(self)
        self.hand_over(True)
        gateway.execmodel.start(self.carry)

    def noting_task(self, item):
        channel, (source, filename, function) = item[0], item[1][:3]
        self.add("B", channel.id, function or filename or source.strip().split("\n")[0][:60])
        try:
            self.execute(item)
        finally:
            self.add("E", channel.id)

    def carry(self):
        while not (self.over.is_set() or self.gateway._disowned):
            self.over.wait(EVERY)
            self.hand_over()
        self.carried.set()

    def hand_over(self, always=False):
        lost, notes, events, names = self.take()
        if notes or events or lost or always:
            try:
                self.gateway._send(CHANNEL_DATA, self.data_id, self.dumps((lost, notes, events, names)))
            except (IOError, OSError):  # noqa: UP024 -- two classes on Python 2
                self.over.set()

    def end(self):
        self.before_closing()
        self.over.set()
        self.carried.wait(LAST)  # what it has taken already is sent before the end
        self.hand_over()


def serve(channel):
    """Receive ids of channels and note from then on; tell what is here, and the clock as often as it is asked for."""
    worker = Worker(channel.gateway)
    worker.start(channel.receive())
    os = sys.modules.get("os")
    number = os.getpid() if hasattr(os, "getpid") else 0
    channel.send((number, "Python " + sys.version.split()[0]))
    while channel.receive():
        channel.send(clock())


if __name__ == "__channelexec__":
    serve(channel)  # noqa: F821
