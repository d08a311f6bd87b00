"""The socket server as a service of Windows, by pywin32: ``python -m execnet.script.socketserverservice install``.

The further words are those of every service of pywin32: ``start``, ``stop``, ``remove``, ``debug``. It listens on the
address that `execnet.script.socketserver` has by default, and what it prints goes to the event log. Anyone who can
connect can execute anything, as the user of the service: give a host that only you reach.

Without pywin32, and so wherever there is no Windows, the import raises ImportError.
"""

from __future__ import annotations

import sys
import threading

try:
    import servicemanager
    import win32event
    import win32evtlogutil
    import win32service
    import win32serviceutil
except ImportError as error:
    reason = f"{error}: execnet.script.socketserverservice needs Windows and pywin32"
    raise ModuleNotFoundError(reason, name=error.name) from None

from execnet.gateway_base import get_execmodel
from execnet.script import socketserver

appname = "ExecNetSocketServer"


class EventLog:
    """A standard output for a process that has none: each line is an entry of the event log."""

    def __init__(self) -> None:
        self._begun = ""

    def write(self, text: str) -> int:
        """Log the lines that are whole now."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(None, lines):
            servicemanager.LogInfoMsg(line)
        return len(text)

    def flush(self) -> None:
        """Nothing: a line is logged at its end."""


class SocketServerService(win32serviceutil.ServiceFramework):  # type: ignore[misc]
    """What the service manager starts and stops."""

    _svc_name_ = appname
    _svc_display_name_ = appname
    _svc_deps_ = ["EventLog"]  # noqa: RUF012 -- pywin32 asks for it here

    WAIT_TIME = 1000  # milliseconds between two looks at the server

    def __init__(self, args: list[str]) -> None:
        win32evtlogutil.AddSourceToRegistry(appname, servicemanager.__file__, "Application")
        super().__init__(args)
        self.hWaitStop = win32event.CreateEvent(None, 0, 0, None)

    def SvcStop(self) -> None:
        """Have it stop; called by a thread of the service manager."""
        self.ReportServiceStatus(win32service.SERVICE_STOP_PENDING)
        win32event.SetEvent(self.hWaitStop)

    def SvcDoRun(self) -> None:
        """Serve until it is to stop, or can't serve any more; raises OSError where the address can't be had."""
        sys.stdout = sys.stderr = EventLog()
        self._report(servicemanager.PYS_SERVICE_STARTED)
        try:
            listening = socketserver.bind_and_listen(socketserver.DEFAULT, get_execmodel("thread"))
            server = threading.Thread(target=socketserver.startserver, args=(listening,), kwargs={"loop": True})
            server.daemon = True  # which ends with the process, at once
            server.start()
            while server.is_alive() and self._goes_on():
                pass
        finally:
            self._report(servicemanager.PYS_SERVICE_STOPPED)

    def _goes_on(self) -> bool:
        return bool(win32event.WaitForSingleObject(self.hWaitStop, self.WAIT_TIME) == win32event.WAIT_TIMEOUT)

    def _report(self, event: int) -> None:
        kind = servicemanager.EVENTLOG_INFORMATION_TYPE
        win32evtlogutil.ReportEvent(appname, event, 0, kind, (appname, ""))


if __name__ == "__main__":
    win32serviceutil.HandleCommandLine(SocketServerService)
