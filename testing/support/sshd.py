"""An OpenSSH server on 127.0.0.1 for the tests, with keys that are thrown away with it."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from support.leaks import MARK
from support.processes import end, free_port, wait_listening

HOST = "execnet-test"
PROGRAMS = ("sshd", "ssh", "ssh-keygen")
HOW_TO_GET = "apt-get install openssh-server openssh-client passwd"
PORT_ATTEMPTS = 5  # another program can take the free port before sshd does
PRIVILEGE_SEPARATION = Path("/run/sshd")

SERVER_CONFIG = """\
{settings}
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM {pam}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
PrintMotd no
MaxStartups 200
MaxSessions 200
LogLevel VERBOSE
{set_env}
"""

CLIENT_CONFIG = """\
Host {host}
{settings}
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile none
    StrictHostKeyChecking no
    BatchMode yes
    LogLevel ERROR
"""


def _find(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin", "/usr/local/sbin", "/sbin"]))


def lacking() -> list[str]:
    """Those of the OpenSSH programs a server needs that are not installed."""
    return [name for name in PROGRAMS if _find(name) is None]


def executable(name: str) -> str:
    """The path of an OpenSSH program; FileNotFoundError says how to get it."""
    found = _find(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: {HOW_TO_GET}")
    return found


def _account_is_locked() -> bool:
    # Without PAM sshd refuses a locked account, and root often is one.
    try:
        lines = Path("/etc/shadow").read_text().splitlines()
    except OSError:
        return False  # not root: sshd can't read it either
    return any(line.startswith(f"{getpass.getuser()}:!") for line in lines)


class SshServer:
    """A running sshd; `host` is its name in the client configuration file `config`.

    `settings` are lines of sshd_config; they go before ours, since the first value of a setting counts.
    """

    host = HOST

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder = folder
        self.settings = settings
        self.config = folder / "ssh_config"
        self.log = folder / "sshd.log"
        for program in PROGRAMS:
            executable(program)
        self._make_keys()
        self.port, self.process = self._start()
        self.config.write_text(self._client_config())

    def client_config(self, name: str, *settings: str) -> Path:
        """Write another client configuration, with `settings` for our host before ours."""
        path = self.folder / name
        path.write_text(self._client_config(*settings))
        return path

    def logins(self, method: str = "publickey") -> int:
        """How often someone has logged in."""
        return self.log.read_text().count(f"Accepted {method}")

    def spec(self, **extra: object) -> str:
        """The spec of a gateway on this server; `extra` are further keys, `python` replaces ours."""
        keys = {"ssh": self.host, "ssh_config": self.config, "python": sys.executable, **extra}
        return "//".join(key if value is True else f"{key}={value}" for key, value in keys.items())

    def write_vagrant(self, folder: Path) -> Path:
        """Write a program `vagrant` into `folder` whose `vagrant ssh NAME -- ARGS` is a real ssh to here."""
        stub = folder / "vagrant"
        stub.write_text(
            "#!/bin/sh\n"
            '[ "$1" = ssh ] && [ "$3" = -- ] || { echo "vagrant stub: $*" >&2; exit 2; }\n'
            "name=$2; shift 3\n"
            f'exec ssh -F "{self.config}" "$name" "$@"\n'
        )
        stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
        return stub

    def close(self) -> None:
        """End the server."""
        end(self.process)

    def _make_keys(self) -> None:
        for name in ("host_key", "user_key"):
            subprocess.run(
                [executable("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)],
                check=True,
                timeout=30,
            )

    def _start(self) -> tuple[int, subprocess.Popen[bytes]]:
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, parents=True, exist_ok=True)
        for _ in range(PORT_ATTEMPTS):
            port = free_port()
            process = self._start_on(port)
            if wait_listening(process, port):
                return port, process
            end(process)
        raise RuntimeError(f"sshd did not start: {self.log.read_text()}")

    def _start_on(self, port: int) -> subprocess.Popen[bytes]:
        # What ssh starts gets a fresh environment: the mark has to be put into it.
        mark = os.environ.get(MARK)
        config = self.folder / "sshd_config"
        config.write_text(
            SERVER_CONFIG.format(
                settings="\n".join(self.settings),
                port=port,
                folder=self.folder,
                pam="yes" if _account_is_locked() else "no",
                # A home of its own: the start-up files of the account's shell differ between machines, and take time.
                set_env=f"SetEnv HOME={self.folder}" + (f" {MARK}={mark}" if mark else ""),
            )
        )
        return subprocess.Popen(
            [executable("sshd"), "-D", "-f", str(config), "-E", str(self.log)], stdin=subprocess.DEVNULL
        )

    def _client_config(self, *settings: str) -> str:
        return CLIENT_CONFIG.format(
            host=self.host,
            settings="\n".join(f"    {line}" for line in settings),
            port=self.port,
            user=getpass.getuser(),
            folder=self.folder,
        )


class Account:
    """A user of this machine, with a password, for as long as it is needed; PermissionError where we are not root."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise PermissionError("only root makes users")
        suffix = os.urandom(4).hex()
        self.name, self.password = f"execnet-{suffix}", f"secret-{suffix}"
        subprocess.run([executable("useradd"), "-M", "-s", "/bin/sh", self.name], check=True, timeout=30)
        try:
            line = f"{self.name}:{self.password}\n"
            subprocess.run([executable("chpasswd")], input=line, text=True, check=True, timeout=30)
            self.uid = pwd.getpwnam(self.name).pw_uid
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the user."""
        subprocess.run([executable("userdel"), "-f", self.name], check=True, timeout=30, stderr=subprocess.DEVNULL)
