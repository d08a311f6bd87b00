"""EXECNET_WARM: each plain popen is forked from a fork server, or starts cold and says why."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import packages
from support.initiator import Initiator, wait_for_end
from support.processes import children_of, wait_until
from support.socketserver import SocketServer

import execnet
from execnet._transport import unasked
from execnet.gateway_bootstrap import GatewayStartTimeout

SECONDS = 20.0
SLACK = 0.5
PARENT = "channel.send(__import__('os').getppid())"


@pytest.fixture(autouse=True)
def knows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of this process is forgotten before each test."""
    for name in ("_imported", "_failed", "_told"):
        monkeypatch.setattr(unasked, name, type(getattr(unasked, name))())


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain gateways are warm, with one module."""
    monkeypatch.setenv("EXECNET_WARM", "email.message")


def value_of(gateway: execnet.Gateway, expression: str) -> Any:
    return gateway.remote_exec(f"import os, sys; channel.send({expression})").receive(SECONDS)


def forkservers_of(group: execnet.Group) -> list[int]:
    return [forkserver.popen.pid for forkserver in group._forkservers.values() if forkserver.popen]


def is_warm(gateway: execnet.Gateway) -> bool:
    return gateway.remote_exec(PARENT).receive(SECONDS) in forkservers_of(gateway._group)


class TestWhichStartWarm:
    def test_none_unless_asked_for(self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EXECNET_WARM", "")
        assert not is_warm(group.makegateway())
        assert "execnet._transport.unasked" in sys.modules and group._forkservers == {}

    @pytest.mark.usefixtures("named")
    def test_plain_popen(self, group: execnet.Group, tmp_path: Path) -> None:
        specs = [
            "popen",
            "popen//id=own",
            f"popen//chdir={tmp_path}",
            "popen//nice=2",
            "popen//env:COLOUR=blue",
            "popen//execmodel=main_thread_only",
            "popen//newsession//stderr=capture//faulthandler//dont_write_bytecode",
            "execmodel=main_thread_only//popen",
        ]
        gateways = [group.makegateway(spec) for spec in specs]
        assert [is_warm(gateway) for gateway in gateways] == [True] * len(specs)
        assert [str(gateway.spec) for gateway in gateways] == specs
        assert gateways[0].spec.warm is None and gateways[0].spec.preload is None
        assert gateways[1].id == "own"
        assert value_of(gateways[2], "os.getcwd()") == str(tmp_path)
        assert value_of(gateways[3], "os.nice(0)") == os.nice(0) + 2
        assert value_of(gateways[4], "os.environ['COLOUR']") == "blue"
        assert gateways[5].remote_status().execmodel == "main_thread_only"

    @pytest.mark.usefixtures("named")
    def test_modules_that_are_named_are_there(self, group: execnet.Group) -> None:
        assert value_of(group.makegateway(), "'email.message' in sys.modules")

    @pytest.mark.usefixtures("named")
    def test_many_at_once_and_ahead(self, group: execnet.Group, capfd: pytest.CaptureFixture[str]) -> None:
        assert all(map(is_warm, group.makegateways(["popen"] * 8)))
        group.start_ahead = 4
        specs = [execnet.XSpec("popen") for _ in range(4)]
        for spec in specs:
            group.allocate_id(spec)
        assert all(is_warm(group.makegateway(spec)) for spec in specs)
        assert len(group._forkservers) == 1
        assert capfd.readouterr().err == ""

    @pytest.mark.usefixtures("named")
    def test_other_specs_start_as_ever(
        self, group: execnet.Group, socket_server: SocketServer, capfd: pytest.CaptureFixture[str]
    ) -> None:
        group.makegateway("popen//id=there")
        assert value_of(group.makegateway("popen//via=there"), "'email.message' in sys.modules") is False
        assert value_of(group.makegateway(socket_server.spec()), "'email.message' in sys.modules") is False
        explicit = group.makegateway("popen//warm")
        assert value_of(explicit, "'email.message' in sys.modules") is False
        with pytest.raises(ValueError, match="preload= is for warm starts"):
            group.makegateway("popen//preload=json")
        assert capfd.readouterr().err == ""

    @pytest.mark.usefixtures("named")
    def test_after_the_group_has_ended_another_one_starts_warm(self) -> None:
        for _ in range(2):
            with execnet.Group() as group:
                assert is_warm(group.makegateway())

    def test_a_worker_ends_as_any_other_one(self, group: execnet.Group, named: None, tmp_path: Path) -> None:
        gateway = group.makegateway()
        gateway.remote_exec(f"import atexit, pathlib; atexit.register(pathlib.Path({str(tmp_path / 'ran')!r}).touch)")
        gateway.exit(wait=SECONDS)
        assert gateway.returncode == 0 and (tmp_path / "ran").exists()


class TestColdAndWhy:
    def lines(self, capfd: pytest.CaptureFixture[str]) -> list[str]:
        return capfd.readouterr().err.splitlines()

    def test_another_interpreter(self, group: execnet.Group, named: None, capfd: pytest.CaptureFixture[str]) -> None:
        for _ in range(2):
            assert not is_warm(group.makegateway(f"popen//python={sys.executable}"))
        (line,) = self.lines(capfd)
        assert line == (
            f"execnet: EXECNET_WARM: gateway 'gw0' (popen//python={sys.executable}) starts cold: "
            f"python={sys.executable} is another interpreter"
        )

    def test_a_variable_that_acts_at_the_start(
        self, group: execnet.Group, named: None, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert not is_warm(group.makegateway("popen//env:PYTHONHASHSEED=1"))
        assert self.lines(capfd)[0].endswith("starts cold: env:PYTHONHASHSEED acts when an interpreter starts")

    def test_a_system_without_fork(
        self, group: execnet.Group, named: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(os, "fork")
        assert not is_warm(group.makegateway())
        assert "has no fork" in self.lines(capfd)[0]

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("import threading; threading.Thread(target=input, name='tick', daemon=True).start()", "threads, .*: tick"),
            ("import faulthandler; faulthandler.dump_traceback_later(1000)", "preload=odd started threads.*: of C"),
            ("import os; os._exit(9)", "the fork server ended with status 9"),
            ("1/0", "preload=odd: ZeroDivisionError: "),
        ],
        ids=["threads", "threads of C code", "the end", "an exception"],
    )
    def test_a_module_that_no_worker_can_be_forked_with(
        self,
        group: execnet.Group,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        source: str,
        reason: str,
    ) -> None:
        count = tmp_path / "count"
        (tmp_path / "odd.py").write_text(f"open({str(count)!r}, 'a').write('x')\n{source}")
        monkeypatch.setenv("EXECNET_WARM", "json,odd")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        gateways = [*group.makegateways(["popen"] * 3), group.makegateway()]
        assert not any(map(is_warm, gateways))
        (told,) = [line for line in self.lines(capfd) if line.startswith("execnet:")]
        assert re.search(rf"^execnet: EXECNET_WARM: gateway 'gw\d' \(popen\) starts cold: .*{reason}", told)
        # Once for each start side by side at most; what has failed is not tried again.
        assert 1 <= len(count.read_text()) <= 3

    def test_a_module_that_is_missing(
        self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("EXECNET_WARM", "nosuch")
        assert not is_warm(group.makegateway())
        assert self.lines(capfd)[0].endswith("preload=nosuch: ModuleNotFoundError: No module named 'nosuch'")

    def test_a_line_is_told_though_nobody_reads(self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EXECNET_WARM", "nosuch")
        monkeypatch.setattr(sys, "stderr", None)
        assert not is_warm(group.makegateway())

    @pytest.mark.parametrize("library", ["gevent", "eventlet"])
    def test_a_program_that_is_patched(self, library: str) -> None:
        patch = {"gevent": "patch_all", "eventlet": "monkey_patch"}[library]
        module = {"gevent": "gevent.monkey", "eventlet": "eventlet"}[library]
        source = f"""
import {module} as patching
patching.{patch}()
from execnet._transport import unasked
say(unasked.preload_for(execnet.XSpec("popen//id=gw0")) is None)
"""
        with Initiator(source, EXECNET_WARM="auto") as initiator:
            assert initiator.hear() is True
            assert "threads or sockets are patched" in initiator.end()[2]


class TestGivenUp:
    def slow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "slow.py").write_text("import time; time.sleep(30)")
        monkeypatch.setenv("EXECNET_WARM", "slow")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def test_a_start_that_takes_too_long(
        self, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.slow(tmp_path, monkeypatch)
        with pytest.raises(GatewayStartTimeout):
            group.makegateway("popen//timeout=0.3")
        assert list(group) == []
        assert capfd.readouterr().err == ""  # it is not said to start cold, nor does it

    def test_one_that_waits_does_not_start_cold_when_it_is_stopped(
        self, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.slow(tmp_path, monkeypatch)
        with pytest.raises(FileNotFoundError):
            group.makegateways(["popen", "popen//python=/no/python"])
        assert "gw0" not in capfd.readouterr().err
        assert list(group) == []

    def test_ctrl_c(self, tmp_path: Path) -> None:
        (tmp_path / "slow.py").write_text("import time; time.sleep(30)")
        source = """
group = execnet.Group()
say(0)
try:
    group.makegateway()
except KeyboardInterrupt:
    say([forkserver.popen.pid for forkserver in group._forkservers.values()])
"""
        with Initiator(source, session=True, PYTHONPATH=str(tmp_path), EXECNET_WARM="slow") as initiator:
            initiator.hear()
            wait_until(lambda: children_of(initiator.pid), SECONDS, "the fork server")
            time.sleep(0.2)  # somewhere in the import
            os.killpg(initiator.pid, signal.SIGINT)
            pids = initiator.hear()
            initiator.end()
            assert wait_for_end(pids, SLACK) == []


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> packages.Venv:
    """An environment with packages of all kinds in its site-packages."""
    venv = packages.Venv.make(tmp_path_factory.mktemp("auto") / "venv")
    for name, text in SITE_PACKAGES.items():
        file = venv.site / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return venv


SITE_PACKAGES = {
    "plain/__init__.py": "import os\nPID = os.getpid()\nfrom . import part",
    "plain/part.py": "",
    "spoken.py": "import warnings\nwarnings.warn('spoken')\nwarnings.filterwarnings('ignore', 'own filter')",
    # Needs what only the program and each worker have: the state that is set up before it is imported.
    "state.py": "ready = False",
    "models/__init__.py": "from . import fields\nimport state\nassert state.ready\nfrom . import late",
    "models/fields.py": "",
    "models/late.py": "",
    "usesmodels.py": "try:\n    import models\nexcept Exception:\n    models = None\n",
    # Looks at the program's own modules.
    "settings_of.py": "try:\n    import settings\nexcept ImportError:\n    settings = None\n",
    "skipping.py": "import state\nif not state.ready: raise SystemExit('no')",
    "odd.py": "import os\nif 'ODD' in os.environ: exec(os.environ['ODD'])",
    "space/inner.py": "import os\nPID = os.getpid()",
}
# In the program's folder.
OWN = {"settings.py": "import os\nNAME = os.environ.get('WORKER', 'nobody')\nPID = os.getpid()"}
MARK = "this is the program"
AUTO = """
sys.path.insert(0, "")
{before}
group = execnet.Group()
gateway = group.makegateway()
say(gateway.remote_exec({task!r}).receive(20))
"""


def auto(
    venv: packages.Venv, folder: Path, task: str, before: str, program: str = "", **environ: Any
) -> tuple[Any, str]:
    """What a task says in a worker of a program that has done something before, and the program's stderr."""
    for name, text in OWN.items():
        (folder / name).write_text(text)
    source = f"os.chdir({str(folder)!r})\n" + AUTO.format(task=f"import os, sys\n{task}", before=before) + program
    with Initiator(source, python=str(venv.python), EXECNET_WARM="auto", **environ) as initiator:
        status, said, err = initiator.end()
    assert (status, len(said)) == (0, 1), err
    return said[0], err


class TestAuto:
    def test_modules_of_site_packages_are_there_and_not_others(self, venv: packages.Venv, tmp_path: Path) -> None:
        task = "names = list(sys.modules); import plain\n"
        task += "channel.send(['plain' in names, 'plain.part' in names, plain.PID == os.getppid(), "
        task += "'settings' in names, 'spoken' in names, 'csv' in names])"
        said, err = auto(venv, tmp_path, task, "import plain, settings, csv")
        assert said == [True, True, True, False, False, False]
        assert err == ""

    def test_it_is_what_is_there_when_the_first_worker_starts(self, venv: packages.Venv, tmp_path: Path) -> None:
        program = """
import state
again = group.makegateway().remote_exec("import sys; channel.send('state' in sys.modules)").receive(20)
assert again is False and len(group._forkservers) == 1
"""
        assert auto(venv, tmp_path, "channel.send(1)", "import plain", program) == (1, "")

    def test_a_part_of_a_namespace(self, venv: packages.Venv, tmp_path: Path) -> None:
        task = "names = list(sys.modules); import space.inner as inner\n"
        task += "channel.send(['space.inner' in names, inner.PID == os.getppid()])"
        assert auto(venv, tmp_path, task, "import space.inner") == ([True, True], "")

    def test_warnings_are_told_once_by_the_program_itself(self, venv: packages.Venv, tmp_path: Path) -> None:
        task = "import warnings; channel.send(['spoken' in sys.modules, any("
        task += "'own filter' in str(entry[1] and entry[1].pattern) for entry in warnings.filters), "
        task += "warnings.showwarning is warnings._showwarning_orig])"
        said, err = auto(venv, tmp_path, task, "import spoken")
        assert said == [True, True, True]
        assert err.count("UserWarning: spoken") == 1

    def test_what_fails_in_a_fork_server_is_imported_whole_by_the_worker(
        self, venv: packages.Venv, tmp_path: Path
    ) -> None:
        task = "names = list(sys.modules); import state; state.ready = True; import models, usesmodels, skipping\n"
        task += "channel.send([sorted({'models', 'usesmodels', 'skipping', 'plain', 'plain.part', 'state'} & {*names}),"
        task += " models.late.__name__, models.fields.__name__, usesmodels.models is models])"
        said, err = auto(
            venv, tmp_path, task, "import usesmodels as u, state, plain; state.ready = True; import models, skipping"
        )
        assert said == [["plain", "plain.part", "state"], "models.late", "models.fields", True]
        assert err == ""

    def test_modules_of_the_program_are_the_workers_own(self, venv: packages.Venv, tmp_path: Path) -> None:
        task = "names = list(sys.modules); os.environ['WORKER'] = 'me'; sys.path.insert(0, '')\nimport settings_of\n"
        task += "own = settings_of.settings; channel.send(['settings_of' in names, own.NAME, own.PID == os.getpid()])"
        said, err = auto(venv, tmp_path, task, "import settings_of")
        assert said == [False, "me", True]
        assert err == ""

    def test_what_an_import_hook_has_changed_is_not(self, venv: packages.Venv, tmp_path: Path) -> None:
        before = """
import importlib.machinery as machinery
class Loader(machinery.SourceFileLoader): pass
class Hook:
    def find_spec(self, name, path=None, target=None):
        spec = machinery.PathFinder.find_spec(name, path) if name.startswith("plain") else None
        if spec: spec.loader = Loader(name, spec.origin)
        return spec
sys.meta_path.insert(0, Hook())
import plain, state
"""
        task = "channel.send(['plain' in sys.modules, 'state' in sys.modules])"
        assert auto(venv, tmp_path, task, before) == ([False, True], "")

    def test_threads_of_a_module_are_told_with_its_name(self, venv: packages.Venv, tmp_path: Path) -> None:
        odd = "import threading, time; threading.Thread(target=time.sleep, args=(5,), daemon=True, name='tick').start()"
        assert auto(venv, tmp_path, "channel.send('odd' in sys.modules)", "import odd, plain", ODD=odd) == (
            False,
            "execnet: EXECNET_WARM: gateway 'gw0' (popen) starts cold: "
            "preload=odd started threads, which no worker would have: tick\n",
        )

    def test_ctrl_c_reaches_a_worker_of_a_fork_server_that_began_anew(
        self, venv: packages.Venv, tmp_path: Path
    ) -> None:
        task = "import signal; channel.send(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
        before = "import state; state.ready = True; import models"
        assert auto(venv, tmp_path, task, before) == (True, "")

    def test_a_fork_server_that_began_anew_has_the_environment_it_was_started_with(
        self, venv: packages.Venv, tmp_path: Path
    ) -> None:
        odd = "os.environ['SET_BY_ODD'] = 'x'; assert 'SECOND' in os.environ; os.environ['SECOND'] += 'x'"
        task = "channel.send([os.environ.get('SET_BY_ODD'), 'odd' in sys.modules])"
        before = "os.environ['SECOND'] = ''; import odd; del os.environ['SECOND'], os.environ['SET_BY_ODD']"
        assert auto(venv, tmp_path, task, before, ODD=odd) == ([None, False], "")

    def test_what_coverage_measures_is_imported_by_the_worker(
        self, tmp_path: Path, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        coverage = pytest.importorskip("coverage")
        monkeypatch.setenv("EXECNET_WARM", "auto")
        monkeypatch.chdir(tmp_path)
        measuring = coverage.Coverage(source=["pluggy"], data_file=None)
        monkeypatch.setattr(coverage.Coverage, "current", classmethod(lambda cls: measuring))
        preload = unasked.preload_for(execnet.XSpec("popen"))
        assert preload is not None
        assert "pytest" in preload.names and not [name for name in preload.names if name.startswith("pluggy")]

    def test_a_program_killed_while_the_fork_server_imports_leaves_nothing(self, venv: packages.Venv) -> None:
        # In the program itself it takes no time.
        odd = f"import sys, time; time.sleep(60 if sys.argv == ['-c'] and {MARK!r} not in sys.modules else 0)"
        source = f"sys.modules[{MARK!r}] = sys\nimport odd\nsay(1)\nexecnet.makegateway()"
        with Initiator(source, python=str(venv.python), EXECNET_WARM="auto", ODD=odd) as initiator:
            initiator.hear()
            wait_until(lambda: children_of(initiator.pid), SECONDS, "the fork server")
            pids = children_of(initiator.pid)
            initiator.kill()
            initiator.await_reaped()
            assert wait_for_end(pids, SLACK) == []
