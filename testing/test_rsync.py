"""RSync: targets become equal to the source, and only what differs travels."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.interpreters import Interpreter
from support.lines import AtLine, functions_of

import execnet
from execnet import RSync, rsync, rsync_remote
from execnet._source import tree as rsync_source

SECONDS = 10.0
Sync = Callable[..., "list[str]"]
Become = Callable[[Path], object]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "dest"


@pytest.fixture
def sync(gw: execnet.Gateway, source: Path, dest: Path) -> Sync:
    """Bring dest up to date; returns the relative paths that were sent."""

    def sync(
        callback: Callable[..., object] | None = None,
        top: Path = source,
        filter: Callable[[str], bool] = lambda path: True,
        **options: Any,
    ) -> list[str]:
        sent, keep = list[str](), filter

        class Noting(RSync):
            def _report_send_file(self, gateway: execnet.Gateway, modified_rel_path: str) -> None:
                assert gateway is gw
                sent.append(modified_rel_path)

            def filter(self, path: str) -> bool:
                return keep(path)

        rsync = Noting(top, callback=callback)
        rsync.add_target(gw, dest, **options)
        rsync.send()
        return sorted(sent)

    return sync


def tree(top: Path) -> dict[str, object]:
    """What is in a folder: content of files, targets of links, None for folders."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = None if path.is_dir() else path.read_bytes()
    return found


def snapshot(top: Path) -> list[tuple[str, int, int]]:
    """What a dry run must leave alone, with modes and times."""
    return sorted((str(path), path.lstat().st_mode, path.lstat().st_mtime_ns) for path in [top, *top.rglob("*")])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


class TestContent:
    def test_a_tree_arrives(self, sync: Sync, source: Path, dest: Path) -> None:
        (source / "a").write_bytes(b"hello")
        (source / "empty").touch()
        (source / "sub" / "deeper").mkdir(parents=True)
        (source / "sub" / "deeper" / "b").write_bytes(bytes(range(256)))
        (source / "sub" / "nothing").mkdir()
        assert sync() == ["a", "empty", "sub/deeper/b"]
        assert tree(dest) == tree(source)

    def test_nothing_travels_the_second_time(self, sync: Sync, source: Path) -> None:
        (source / "a").write_bytes(b"hello")
        assert sync() == ["a"]
        assert sync() == []

    def test_a_change_of_size_or_content_travels(self, sync: Sync, source: Path, dest: Path) -> None:
        for name in "abc":
            (source / name).write_bytes(b"hello")
        sync()
        (source / "a").write_bytes(b"hello!")
        (source / "b").write_bytes(b"HELLO")
        os.utime(source / "b", ns=(0, 10**18))
        assert sync() == ["a", "b"]
        assert tree(dest) == tree(source)

    def test_equal_content_with_another_time_does_not_travel_but_gets_the_time(
        self, sync: Sync, source: Path, dest: Path
    ) -> None:
        (source / "a").write_bytes(b"hello")
        sync()
        os.utime(source / "a", ns=(0, 10**18 + 1))
        assert sync() == []
        assert (dest / "a").stat().st_mtime_ns == 10**18 + 1

    def test_size_and_time_are_trusted(self, sync: Sync, source: Path, dest: Path) -> None:
        (source / "a").write_bytes(b"hello")
        sync()
        (dest / "a").write_bytes(b"HELLO")
        os.utime(dest / "a", ns=(0, (source / "a").stat().st_mtime_ns))
        assert sync() == []
        assert (dest / "a").read_bytes() == b"HELLO"

    def test_mode_and_time_are_kept(self, sync: Sync, source: Path, dest: Path) -> None:
        (source / "a").write_bytes(b"#!")
        (source / "a").chmod(0o751)
        os.utime(source / "a", ns=(0, 1234567890123456789))
        sync()
        assert (mode(dest / "a"), (dest / "a").stat().st_mtime_ns) == (0o751, 1234567890123456789)
        (source / "a").chmod(0o640)
        assert sync() == []
        assert mode(dest / "a") == 0o640

    def test_folders_are_owner_writable(self, sync: Sync, source: Path, dest: Path) -> None:
        (source / "sub").mkdir()
        (source / "sub" / "a").touch()
        (source / "sub").chmod(0o555)
        source.chmod(0o510)
        sync()
        assert (mode(dest), mode(dest / "sub")) == (0o710, 0o755)

    @pytest.mark.parametrize(
        "size", [rsync_source.CHUNK - 1, rsync_source.CHUNK, rsync_source.CHUNK + 1, 3 * rsync.WINDOW_BYTES + 5]
    )
    def test_large_files_travel_in_parts(self, sync: Sync, source: Path, dest: Path, size: int) -> None:
        content = os.urandom(1000) * (size // 1000 + 1)
        (source / "large").write_bytes(content[:size])
        sync()
        assert (dest / "large").read_bytes() == content[:size]

    def test_many_files(self, sync: Sync, source: Path, dest: Path) -> None:
        for number in range(rsync.ENTRIES_PER_MESSAGE * 2 + 1):
            (source / str(number)).write_text(str(number))
        assert len(sync()) == rsync.ENTRIES_PER_MESSAGE * 2 + 1
        assert tree(dest) == tree(source)

    def test_a_single_file(self, sync: Sync, source: Path, dest: Path) -> None:
        (source / "a").write_bytes(b"hello")
        assert sync(top=source / "a") == [""]
        assert dest.read_bytes() == b"hello"

    def test_a_source_given_through_a_link_or_relative(
        self, sync: Sync, source: Path, dest: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (source / "a").write_bytes(b"hello")
        (tmp_path / "link").symlink_to(source)
        monkeypatch.chdir(tmp_path)
        sync(top="link")
        assert tree(dest) == {"a": b"hello"}

    def test_missing_parents_of_the_target_are_made(self, gw: execnet.Gateway, source: Path, tmp_path: Path) -> None:
        (source / "a").write_bytes(b"hello")
        for top, to, made in [(source, "x/y", "x/y/a"), (source / "a", "z/b", "z/b")]:
            rsync = RSync(top, verbose=False)
            rsync.add_target(gw, tmp_path / to)
            rsync.send()
            assert (tmp_path / made).read_bytes() == b"hello"

    @pytest.mark.parametrize("name", ["grün".encode(), b"\xff\xfe", b"new\nline", b"-rf *"])
    def test_any_file_name(
        self, gw: execnet.Gateway, source: Path, dest: Path, name: bytes, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_bytes(b"hello")
        os.symlink(name, os.fsencode(source) + b"/link")
        rsync = RSync(source)
        rsync.add_target(gw, dest)
        rsync.send()
        assert sorted(os.listdir(os.fsencode(dest))) == sorted([name, b"link"])
        assert os.readlink(os.fsencode(dest) + b"/link") == name
        assert name.decode(errors="replace") in capsys.readouterr().out

    def test_on_every_python(self, group: execnet.Group, other_python: Interpreter, source: Path, dest: Path) -> None:
        (source / "sub").mkdir()
        (source / "sub" / "grün").write_bytes(b"hello" * 100000)
        (source / "link").symlink_to(source / "sub" / "grün")
        (source / "sub" / "grün").chmod(0o600)
        gateway = group.makegateway(f"popen//python={other_python}")
        counts = []
        for _ in range(2):
            rsync = RSync(source, callback=lambda *event: counts.append(event[:2]), verbose=False)
            rsync.add_target(gateway, dest, delete=True)
            rsync.send()
            (dest / "extra").touch()
        assert counts == [("list", 500000), ("ack", 500000), ("list", 0)]
        assert (dest / "link").resolve() == dest / "sub" / "grün"
        assert (dest / "link").read_bytes() == b"hello" * 100000

    @pytest.mark.parametrize("backend", ["gevent", "eventlet"])
    def test_with_a_green_model(self, source: Path, dest: Path, backend: str) -> None:
        (source / "a").write_bytes(b"hello" * 1000000)
        program = f"""
import execnet
group = execnet.Group(["popen", "popen"], execmodel={backend!r})
rsync = execnet.RSync({str(source)!r}, verbose=False)
for gateway in group:
    rsync.add_target(gateway, {str(dest)!r} + gateway.id)
rsync.send()
group.terminate(5)
"""
        environ = {**os.environ, "PYTHONWARNINGS": "ignore"}  # eventlet tells that it is deprecated
        subprocess.run([sys.executable, "-c", program], timeout=60, env=environ, check=True)
        assert tree(dest.with_name("destgw0")) == tree(dest.with_name("destgw1")) == tree(source)

    def test_memory_stays_bounded(self, source: Path, dest: Path) -> None:
        with (source / "sparse").open("wb") as stream:
            stream.truncate(128 << 20)
        program = f"""
import execnet, resource
def peak(who): return resource.getrusage(who).ru_maxrss >> 10
with execnet.Group(["popen"]) as group:
    before = peak(resource.RUSAGE_SELF)
    rsync = execnet.RSync({str(source)!r}, verbose=False)
    rsync.add_target(group[0], {str(dest)!r})
    rsync.send()
print(peak(resource.RUSAGE_SELF) - before, peak(resource.RUSAGE_CHILDREN) - before)
"""
        output = subprocess.run([sys.executable, "-c", program], timeout=60, check=True, capture_output=True).stdout
        assert max(int(mebibytes) for mebibytes in output.split()) < 32
        assert (dest / "sparse").stat().st_size == 128 << 20

    def test_through_a_via(self, group: execnet.Group, source: Path, dest: Path) -> None:
        (source / "a").write_bytes(b"hello" * 1000000)
        group.makegateways(["popen//id=a", "popen//id=b//via=a"])
        rsync = RSync(source, verbose=False)
        rsync.add_target(group["b"], dest)
        rsync.send()
        assert tree(dest) == tree(source)


class TestWhatIsInTheWay:
    def test_without_delete_nothing_is_removed(self, sync: Sync, source: Path, dest: Path) -> None:
        (dest / "sub").mkdir(parents=True)
        (dest / "sub" / "extra").touch()
        (source / "sub").mkdir()
        sync()
        assert tree(dest) == {"sub": None, "sub/extra": b""}

    def test_with_delete_everything_else_is_removed(self, sync: Sync, source: Path, dest: Path) -> None:
        (dest / "sub" / "folder").mkdir(parents=True)
        (dest / "sub" / "folder" / "extra").touch()
        (dest / "extra").touch()
        (dest / "link").symlink_to("nowhere")
        (source / "sub").mkdir()
        (source / "a").touch()
        sync(delete=True)
        assert tree(dest) == tree(source)

    def test_what_delete_removes_is_not_followed(self, sync: Sync, dest: Path, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "keep").touch()
        dest.mkdir()
        (dest / "link").symlink_to(tmp_path / "other")
        sync(delete=True)
        assert tree(dest) == {}
        assert (tmp_path / "other" / "keep").exists()

    def test_a_folder_takes_the_place_of_a_file_and_the_reverse(self, sync: Sync, source: Path, dest: Path) -> None:
        (source / "a").mkdir()
        (source / "b").write_bytes(b"hello")
        (source / "c").symlink_to("b")
        (dest / "b" / "sub").mkdir(parents=True)
        (dest / "c" / "sub").mkdir(parents=True)
        (dest / "a").touch()
        sync()
        assert tree(dest) == tree(source)

    def test_links_in_the_target_lead_nothing_outside(
        self, sync: Sync, source: Path, dest: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        other.mkdir()
        (other / "file").write_bytes(b"keep")
        dest.mkdir()
        (dest / "sub").symlink_to(other)
        (dest / "file").symlink_to(other / "file")
        (source / "sub").mkdir()
        (source / "sub" / "a").write_bytes(b"hello")
        (source / "file").write_bytes(b"hello")
        sync()
        assert tree(dest) == tree(source)
        assert tree(other) == {"file": b"keep"}

    def test_a_target_that_is_a_link_to_a_folder_stays_one(
        self, sync: Sync, source: Path, dest: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "other").mkdir()
        dest.symlink_to(tmp_path / "other")
        (source / "a").touch()
        sync()
        assert dest.is_symlink() and tree(tmp_path / "other") == {"a": b""}

    def test_a_full_folder_is_not_replaced_by_a_single_file(self, sync: Sync, source: Path, dest: Path) -> None:
        (source / "a").touch()
        dest.mkdir()
        (dest / "precious").touch()
        with pytest.raises(execnet.RemoteError, match="not empty"):
            sync(top=source / "a")
        assert tree(dest) == {"precious": b""}

    def test_no_temporary_file_stays(self, sync: Sync, source: Path, dest: Path) -> None:
        (source / "a").write_bytes(b"hello")
        sync()
        assert os.listdir(dest) == ["a"]


class TestLinks:
    def test_links_into_the_tree_follow_it(self, sync: Sync, source: Path, dest: Path) -> None:
        (source / "sub").mkdir()
        (source / "sub" / "a").write_bytes(b"hello")
        (source / "absolute").symlink_to(source / "sub" / "a")
        (source / "folder").symlink_to(source / "sub")
        (source / "sub" / "deep").symlink_to(f"{source}/sub/../sub/a")
        sync()
        assert [os.readlink(dest / name) for name in ("absolute", "folder", "sub/deep")] == [
            str(dest / "sub" / "a"), str(dest / "sub"), str(dest / "sub" / "a")
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "target", ["sub/a", "nowhere", "../elsewhere", "/etc/passwd", "{source}x/a", "{source}/../a"]
    )
    def test_other_links_are_sent_as_they_are(self, sync: Sync, source: Path, dest: Path, target: str) -> None:
        target = target.format(source=source)
        (source / "link").symlink_to(target)
        sync()
        assert os.readlink(dest / "link") == target

    def test_links_are_put_right(self, sync: Sync, source: Path, dest: Path) -> None:
        (source / "link").symlink_to("one")
        sync()
        (source / "link").unlink()
        (source / "link").symlink_to("two")
        sync()
        assert os.readlink(dest / "link") == "two"

    def test_a_relative_target_gets_links_that_work(self, group: execnet.Group, source: Path, tmp_path: Path) -> None:
        (source / "a").write_bytes(b"hello")
        (source / "link").symlink_to(source / "a")
        gateway = group.makegateway(f"popen//chdir={tmp_path / 'there'}")
        rsync = RSync(source, verbose=False)
        rsync.add_target(gateway, "copy")
        rsync.send()
        assert os.readlink(tmp_path / "there" / "copy" / "link") == str(tmp_path / "there" / "copy" / "a")


class TestFilterAndReports:
    def test_the_filter_is_asked_about_all_but_the_top(self, sync: Sync, source: Path, dest: Path) -> None:
        (source / "sub").mkdir()
        (source / "sub" / "a").touch()
        (source / "out").mkdir()
        (source / "out" / "b").touch()
        asked: list[str] = []

        def keep(path: str) -> bool:
            asked.append(path)
            return not path.endswith("out")

        sync(filter=keep)
        assert sorted(asked) == [str(source / name) for name in ("out", "sub", "sub/a")]
        assert tree(dest) == {"sub": None, "sub/a": b""}

    def test_what_is_filtered_is_removed_with_delete(self, sync: Sync, source: Path, dest: Path) -> None:
        (source / "a").touch()
        sync()
        sync(filter=lambda path: False, delete=True)
        assert tree(dest) == {}

    def test_callbacks_tell_the_bytes(self, sync: Sync, source: Path) -> None:
        (source / "a").write_bytes(b"x" * 10)
        (source / "b").write_bytes(b"y" * rsync_source.CHUNK * 3)
        events = []
        sync(callback=lambda *event: events.append(event))
        assert [event[:2] for event in events] == [
            ("list", 10 + rsync_source.CHUNK * 3), ("ack", 10), ("ack", rsync_source.CHUNK * 3)
        ]  # fmt: skip
        assert all(isinstance(channel, execnet.Channel) for _, _, channel in events)

    def test_files_found_equal_by_checksum_are_listed_and_acknowledged(self, sync: Sync, source: Path) -> None:
        (source / "a").write_bytes(b"x" * 10)
        sync()
        os.utime(source / "a", ns=(0, 0))
        events = []
        assert sync(callback=lambda *event: events.append(event[:2])) == []
        assert events == [("list", 10), ("ack", 10)]

    def test_verbose_prints_what_is_sent(
        self, gw: execnet.Gateway, source: Path, dest: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (source / "sub").mkdir()
        (source / "sub" / "a").touch()
        for verbose, told in [(True, "gw0 <= sub/a\n"), (False, "")]:
            rsync = RSync(source, verbose=verbose)
            rsync.add_target(gw, dest, delete=True)
            rsync.send()
            assert capsys.readouterr().out == told
            (dest / "sub" / "a").unlink()

    def test_a_dry_run_changes_nothing_and_reports_what_would_be_done(
        self,
        group: execnet.Group,
        other_python: Interpreter,
        source: Path,
        dest: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        gateway = group.makegateway(f"popen//id=far//python={other_python}")
        (source / "new" / "sub").mkdir(parents=True)
        (source / "new" / "sub" / "grün").write_bytes(b"123")
        (source / "same").write_bytes(b"1")
        (source / "touched").write_bytes(b"12")
        (source / "link").symlink_to("same")
        (source / "folder").mkdir()
        (source / "folder" / "same").write_bytes(b"1")
        first = RSync(source, verbose=False)
        first.add_target(gateway, dest)
        first.send()
        (source / "folder" / "same").write_bytes(b"other")
        os.utime(dest / "touched", ns=(0, 0))
        os.chmod(dest / "same", 0o600)
        shutil.rmtree(dest / "new")
        shutil.rmtree(dest / "folder")
        (dest / "folder").symlink_to(source / "folder")  # where the very files are
        (dest / "old").mkdir()
        (dest / "new").write_bytes(b"in the way")
        before = snapshot(dest)
        capsys.readouterr()
        events, finished = [], []
        rsync = RSync(source, callback=lambda *event: events.append(event[:2]))
        rsync.add_target(gateway, dest, lambda: finished.append(1), delete=True, dry_run=True)
        rsync.send()
        reported = capsys.readouterr().out.splitlines()
        assert sorted(reported) == ["far -- old", "far <= folder/same", "far <= new/sub/grün"]
        assert snapshot(dest) == before
        assert (finished, events[0], sorted(events[1:])) == ([1], ("list", 10), [("ack", 2), ("ack", 3), ("ack", 5)])

    def test_a_dry_run_makes_no_folder_for_what_is_not_there(
        self, gw: execnet.Gateway, source: Path, dest: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (source / "a").touch()
        for top, told in [(source, "gw0 <= a\n"), (source / "a", "gw0 <= \n")]:
            rsync = RSync(top)
            rsync.add_target(gw, dest / "new" / "copy", delete=True, dry_run=True)
            rsync.send()
            assert capsys.readouterr().out == told
        assert not dest.exists()

    def test_the_finishedcallback_is_called_when_the_target_is_complete(
        self, gw: execnet.Gateway, source: Path, dest: Path
    ) -> None:
        (source / "a").touch()
        calls = []
        rsync = RSync(source, verbose=False)
        rsync.add_target(gw, dest, finishedcallback=lambda: calls.append((dest / "a").exists()))
        rsync.send()
        assert calls == [True]


class TestTargets:
    def test_several_at_once(self, group: execnet.Group, source: Path, tmp_path: Path) -> None:
        (source / "a").write_bytes(b"hello")
        (source / "large").write_bytes(os.urandom(3 * rsync.WINDOW_BYTES))
        dests = [tmp_path / f"dest{number}" for number in range(3)]
        finished: list[Path] = []
        rsync_ = RSync(source, verbose=False)
        for dest, gateway in zip(dests, group.makegateways(["popen"] * 3)):
            rsync_.add_target(gateway, dest, finishedcallback=functools.partial(finished.append, dest))
        rsync_.send()
        assert sorted(finished) == dests
        assert [tree(dest) for dest in dests] == [tree(source)] * 3

    def test_two_on_one_gateway(self, gw: execnet.Gateway, source: Path, tmp_path: Path) -> None:
        (source / "a").write_bytes(b"hello")
        rsync = RSync(source, verbose=False)
        for name in "xy":
            rsync.add_target(gw, tmp_path / name)
        rsync.send()
        assert tree(tmp_path / "x") == tree(tmp_path / "y") == {"a": b"hello"}

    def test_a_checksum_is_computed_once_for_all(
        self, group: execnet.Group, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (source / "a").write_bytes(b"hello")
        gateways = group.makegateways(["popen"] * 3)
        opened: list[int] = []

        def noting_open(self: rsync_source.Source, index: int) -> Any:
            opened.append(index)
            return source_open(self, index)

        source_open = rsync_source.Source.open
        for _ in range(2):
            rsync_ = RSync(source, verbose=False)
            for number, gateway in enumerate(gateways):
                rsync_.add_target(gateway, tmp_path / f"dest{number}")
            rsync_.send()
            os.utime(source / "a", ns=(0, 0))
            monkeypatch.setattr(rsync_source.Source, "open", noting_open)
        assert len(opened) == 1

    def test_without_target(self, gw: execnet.Gateway, source: Path, dest: Path) -> None:
        rsync = RSync(source, verbose=False)
        with pytest.raises(OSError, match="no targets"):
            rsync.send()
        assert rsync.send(raises=False) is None  # type: ignore[func-returns-value]
        rsync.add_target(gw, dest)
        rsync.send()
        with pytest.raises(OSError, match="no targets"):
            rsync.send()
        rsync.add_target(gw, dest)
        rsync.send()

    def test_no_other_option_is_taken(self, gw: execnet.Gateway, source: Path, dest: Path) -> None:
        unknown: Any = {"compress": True}
        rsync = RSync(source)
        with pytest.raises(TypeError, match="compress"):
            rsync.add_target(gw, dest, **unknown)

    def test_its_attributes(self, gw: execnet.Gateway, source: Path, dest: Path) -> None:
        verbose: Any = 2
        rsync = RSync(sourcedir=source, callback=None, verbose=verbose)
        assert (rsync._sourcedir, rsync._verbose, rsync._channels) == (str(source), 2, {})
        assert rsync._receivequeue.empty()
        rsync.add_target(gw, dest)
        assert len(rsync._channels) == 1
        rsync.send()
        assert rsync._channels == {} and rsync._receivequeue.empty()

    def test_main_thread_only_workers(self, group: execnet.Group, source: Path, tmp_path: Path) -> None:
        (source / "a").write_bytes(b"hello")
        group.set_execmodel("main_thread_only")
        gateway = group.makegateway("popen")
        for name in "xy":
            rsync = RSync(source, verbose=False)
            rsync.add_target(gateway, tmp_path / name)
            rsync.send()
        assert tree(tmp_path / "x") == tree(tmp_path / "y") == {"a": b"hello"}


class TestFailures:
    def test_a_target_that_cannot_be_written_fails_and_the_others_are_completed(
        self, gw: execnet.Gateway, source: Path, dest: Path, tmp_path: Path
    ) -> None:
        (source / "a").write_bytes(b"hello")
        (tmp_path / "file").touch()
        rsync = RSync(source, verbose=False)
        rsync.add_target(gw, tmp_path / "file" / "inside")
        rsync.add_target(gw, dest)
        with pytest.raises(execnet.RemoteError, match="file/inside"):
            rsync.send()
        assert tree(dest) == {"a": b"hello"}
        assert rsync._channels == {}

    def test_a_worker_that_dies(self, group: execnet.Group, source: Path, dest: Path) -> None:
        (source / "large").write_bytes(os.urandom(10 * rsync.WINDOW_BYTES))
        gateway = group.makegateway("popen")
        rsync_ = RSync(source, verbose=False, callback=lambda *event: gateway._io.popen.kill())
        rsync_.add_target(gateway, dest)
        with pytest.raises(EOFError):
            rsync_.send()

    def test_a_missing_source_is_an_error_and_deletes_nothing(
        self, gw: execnet.Gateway, source: Path, dest: Path
    ) -> None:
        dest.mkdir()
        (dest / "precious").touch()
        rsync = RSync(source / "nix", verbose=False)
        rsync.add_target(gw, dest, delete=True)
        with pytest.raises(FileNotFoundError, match="nix"):
            rsync.send()
        assert tree(dest) == {"precious": b""}

    def test_what_cannot_be_sent_is_named(self, sync: Sync, source: Path) -> None:
        os.mkfifo(source / "pipe")
        with pytest.raises(ValueError, match=r"cannot sync .*pipe"):
            sync()

    def test_the_gateway_is_usable_after_a_failure(self, gw: execnet.Gateway, sync: Sync, source: Path) -> None:
        os.mkfifo(source / "pipe")
        with pytest.raises(ValueError):
            sync()
        assert gw.remote_exec("channel.send(1)").receive(SECONDS) == 1

    @pytest.mark.parametrize("vanishing", ["a", "sub"])
    def test_what_vanishes_while_it_is_listed_is_left_out(
        self, sync: Sync, source: Path, dest: Path, vanishing: str
    ) -> None:
        (source / "sub").mkdir()
        for name in ("a", "b", "sub/c"):
            (source / name).touch()

        def remove(path: str) -> bool:
            if path == str(source / vanishing):
                os.system(f"rm -r '{path}'")
            return True

        sync(filter=remove)
        assert tree(dest) == tree(source)

    def test_what_vanishes_before_it_is_sent_is_left_out(self, sync: Sync, source: Path, dest: Path) -> None:
        for name in "abc":
            (source / name).write_bytes(b"hello")
        acknowledged = []

        def callback(what: str, size: int, channel: execnet.Channel) -> None:
            acknowledged.append(what)
            (source / "b").unlink(missing_ok=True)

        sync(callback=callback)
        assert tree(dest) == tree(source)
        assert acknowledged == ["list", "ack", "ack", "ack"]

    def test_an_error_in_a_callback_is_raised(self, sync: Sync, source: Path) -> None:
        (source / "a").touch()
        with pytest.raises(ZeroDivisionError):
            sync(callback=lambda *event: 1 / 0)


@pytest.fixture(params=[True, False], ids=["by descriptor", "by path"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to read a source: that of POSIX, and that of platforms without it."""
    if request.param and not rsync_source.BY_DESCRIPTOR:
        pytest.skip("this platform only knows paths")
    monkeypatch.setattr(rsync_source, "BY_DESCRIPTOR", request.param)


def become_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


REPLACEMENTS: dict[str, Become] = {
    "link": lambda path: path.symlink_to(path.parents[1] / "outside"),
    "fifo": os.mkfifo,
    "socket": become_socket,
    "folder": Path.mkdir,
    "nothing": lambda path: None,
}


@pytest.mark.usefixtures("way")
class Interrupt(BaseException):
    """What a signal handler raises."""


def interrupt() -> None:
    raise Interrupt


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_an_interrupt_at_any_line_of_reading_the_source_leaves_no_descriptor_open(source: Path) -> None:
    (source / "folder" / "inner").mkdir(parents=True)
    (source / "folder" / "inner" / "file").write_bytes(b"content")
    (source / "folder" / "link").symlink_to("inner")
    chosen = functions_of(rsync_source.__file__)
    before = os.listdir("/proc/self/fd")
    for line in itertools.count():
        file = None
        # close() is also the finalizer, whose exceptions nobody gets.
        at_line = AtLine(line, interrupt, lambda code: chosen(code) and code.co_name != "close")
        with contextlib.suppress(Interrupt), at_line:
            read = rsync_source.Source(str(source), lambda path: True)
            for index in read.sizes:
                read.checksum(index)
                opened = read.open(index)
                assert opened is not None
                file, _ = opened
        if file is not None:
            file.close()
        assert os.listdir("/proc/self/fd") == before, at_line.where
        if at_line.lines <= line:
            break
    assert line > 50


class TestWhatChangesMeanwhile:
    @pytest.fixture(autouse=True)
    def outside(self, tmp_path: Path) -> Path:
        (tmp_path / "outside").write_bytes(b"secret")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "b").write_bytes(b"secret")
        return tmp_path / "elsewhere"

    @staticmethod
    def replaced(path: Path, become: Become) -> Callable[[str, int, execnet.Channel], None]:
        """A callback that puts something else in the place of a file, once all files are listed."""

        def callback(what: str, size: int, channel: execnet.Channel) -> None:
            if what == "list":
                path.unlink()
                become(path)

        return callback

    @pytest.mark.parametrize("become", REPLACEMENTS.values(), ids=REPLACEMENTS)
    @pytest.mark.parametrize("there", [None, b"hullo"], ids=["new", "to compare"])
    def test_a_file_that_turns_into_something_else_is_left_out(
        self, sync: Sync, source: Path, dest: Path, become: Become, there: bytes | None
    ) -> None:
        for name in "abc":
            (source / name).write_bytes(b"hello")
        if there is not None:
            dest.mkdir()
            (dest / "b").write_bytes(there)
        sync(callback=self.replaced(source / "b", become))
        expected = {"a": b"hello", "b": there, "c": b"hello"}
        assert tree(dest) == {name: content for name, content in expected.items() if content is not None}

    @pytest.mark.parametrize("become", [REPLACEMENTS[name] for name in ("fifo", "socket", "folder", "nothing")])
    def test_a_single_file_that_turns_into_something_else_is_left_out(
        self, sync: Sync, source: Path, dest: Path, become: Become
    ) -> None:
        (source / "a").write_bytes(b"hello")
        assert sync(top=source / "a", callback=self.replaced(source / "a", become)) == []
        assert not dest.exists()

    def test_a_folder_that_turns_into_a_link_has_nothing_sent_from_where_it_leads(
        self, sync: Sync, source: Path, dest: Path, outside: Path
    ) -> None:
        (source / "sub" / "deeper").mkdir(parents=True)
        (source / "sub" / "deeper" / "b").write_bytes(b"hello")
        (source / "a").write_bytes(b"hello")
        (outside / "deeper").mkdir()
        (outside / "deeper" / "b").write_bytes(b"secret")

        def callback(what: str, size: int, channel: execnet.Channel) -> None:
            if what == "list":
                (source / "sub").rename(source / "moved")
                (source / "sub").symlink_to(outside)

        if not rsync_source.BY_DESCRIPTOR:
            pytest.skip("paths lead where they lead")
        assert sync(callback=callback) == ["a"]
        assert tree(dest) == {"a": b"hello", "sub": None, "sub/deeper": None}

    @pytest.mark.parametrize("become", ["link", "file", "fifo", "nothing"])
    def test_a_folder_that_is_replaced_before_it_is_listed_is_empty(
        self, sync: Sync, source: Path, dest: Path, outside: Path, become: str
    ) -> None:
        (source / "sub").mkdir()
        (source / "sub" / "b").write_bytes(b"hello")
        (source / "z").write_bytes(b"hello")
        replace: dict[str, Become] = {
            "link": lambda path: path.symlink_to(outside),
            "file": Path.touch,
            "fifo": os.mkfifo,
            "nothing": lambda path: None,
        }

        def keep(path: str) -> bool:
            if path == str(source / "z"):
                (source / "sub").rename(source / "zz")
                replace[become](source / "sub")
            return True

        sync(filter=keep)
        assert tree(dest) == {"sub": None, "z": b"hello"}

    def test_a_growing_file_is_sent_up_to_the_size_it_had_when_opened(self, source: Path) -> None:
        (source / "log").write_bytes(b"x" * (2 * rsync_source.CHUNK + 1))
        tree = rsync_source.Source(str(source), lambda path: True)
        (source / "log").write_bytes(b"y" * (3 * rsync_source.CHUNK))
        opened = tree.open(1)
        assert opened is not None
        stream, size = opened
        parts = []
        with stream, (source / "log").open("ab") as log:
            for part in rsync_source.chunks(stream, size):
                parts.append(part)
                log.write(b"z" * 2 * rsync_source.CHUNK)
                log.flush()
        assert [last for _, last in parts] == [False, False, True]
        assert b"".join(chunk for chunk, _ in parts) == b"y" * (3 * rsync_source.CHUNK)

    @pytest.mark.parametrize("left", [0, 1, rsync_source.CHUNK, rsync_source.CHUNK + 1])
    def test_a_shrinking_file_ends_where_it_ends(self, sync: Sync, source: Path, dest: Path, left: int) -> None:
        (source / "a").write_bytes(b"x" * 3 * rsync_source.CHUNK)
        sync(callback=lambda *event: os.truncate(source / "a", left))
        assert (dest / "a").read_bytes() == b"x" * left

    def test_what_changed_meanwhile_is_put_right_by_the_next_sync(self, sync: Sync, source: Path, dest: Path) -> None:
        for name in "ab":
            (source / name).write_bytes(b"hello")
        sync(callback=lambda *event: (source / "b").write_bytes(b"HELLO"))
        sync()
        assert tree(dest) == tree(source)


@pytest.fixture
def everyones() -> Iterator[Path]:
    """A folder that any user can reach and write to; pytest's own are for one user alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


@pytest.fixture
def users_gateway(gw: execnet.Gateway, everyones: Path) -> execnet.Gateway:
    """A gateway whose other side is no longer root, if it was."""
    (everyones / "first").mkdir()
    # What is imported late might be in a place that the user can't read.
    with pytest.raises(execnet.RemoteError):
        gw.remote_exec("import os; os.rmdir('/')").waitclose(SECONDS)
    rsync_ = RSync(everyones / "first", verbose=False)
    rsync_.add_target(gw, everyones / "second", delete=True)
    rsync_.send()
    user = "import os; os.getuid() or os.setuid(65534); channel.send(os.getuid())"
    assert gw.remote_exec(user).receive(SECONDS) != 0
    return gw


class TestOrdinaryUsers:
    """What root may do anyway."""

    def sync(self, gateway: execnet.Gateway, source: Path, dest: Path, **options: Any) -> None:
        rsync_ = RSync(source, verbose=False)
        rsync_.add_target(gateway, dest, **options)
        rsync_.send()

    @pytest.fixture
    def dest(self, users_gateway: execnet.Gateway, everyones: Path) -> Path:
        """Has two levels of folders that their owner may not write to, or even list."""
        dest = everyones / "dest"
        program = f"""
import os
os.makedirs({str(dest / "old" / "inner")!r})
open({str(dest / "old" / "inner" / "file")!r}, "w").close()
os.symlink("/", {str(dest / "old" / "link")!r})
os.chmod({str(dest / "old" / "inner")!r}, 0)
os.chmod({str(dest / "old")!r}, 0o555)
"""
        users_gateway.remote_exec(program).waitclose(SECONDS)
        return dest

    def test_delete_removes_folders_that_may_not_be_written_to(
        self, users_gateway: execnet.Gateway, source: Path, dest: Path
    ) -> None:
        (source / "new").write_bytes(b"hello")
        self.sync(users_gateway, source, dest, delete=True)
        assert tree(dest) == {"new": b"hello"}

    @pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("x")], ids=["file", "link"])
    def test_such_a_folder_gives_way(
        self, users_gateway: execnet.Gateway, source: Path, dest: Path, make: Become
    ) -> None:
        make(source / "old")
        self.sync(users_gateway, source, dest)
        assert tree(dest) == tree(source)

    def test_folders_are_made_usable_for_their_owner(
        self, users_gateway: execnet.Gateway, source: Path, dest: Path
    ) -> None:
        (source / "old" / "inner").mkdir(parents=True)
        (source / "old" / "inner" / "file").write_bytes(b"hello")
        (source / "old" / "inner").chmod(0o055)
        self.sync(users_gateway, source, dest, delete=True)
        assert mode(dest / "old" / "inner") == 0o755
        assert (dest / "old" / "inner" / "file").read_bytes() == b"hello"

    def test_files_that_may_not_be_read_are_left_out_and_folders_an_error(self, everyones: Path) -> None:
        program = f"""
import os, execnet
def sync(group):
    rsync = execnet.RSync("source", verbose=False)
    rsync.add_target(group[0], "dest")
    rsync.send()
os.chdir({str(everyones)!r})
os.mkdir("source")
for name in "ab":
    open("source/" + name, "w").close()
os.chmod("source/a", 0)
os.mkdir("empty")
with execnet.Group(["popen//chdir={everyones}"]) as group:
    warm = execnet.RSync("empty", verbose=False)  # imports what is imported late
    warm.add_target(group[0], "nowhere")
    warm.send()
    if not os.getuid():
        os.seteuid(65534)
    sync(group)
    print(os.listdir("dest"))
    os.seteuid(os.getuid())
    os.mkdir("source/sub")
    os.chmod("source/sub", 0)
    if not os.getuid():
        os.seteuid(65534)
    try:
        sync(group)
    except PermissionError as error:
        print(error.filename)
    os.seteuid(os.getuid())
"""
        run = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
        assert run.stdout == f"['b']\n{everyones}/source/sub\n", run.stderr


class TestAtTheSameTime:
    """Others in the same folders; no result may pass for right that is not."""

    def test_two_that_sync_to_the_same_folder(self, group: execnet.Group, source: Path, dest: Path) -> None:
        (source / "link").symlink_to("a")
        (source / "sub").mkdir()
        for number in range(30):
            (source / "sub" / str(number)).write_bytes(b"hello" * number * 1000)
        program = f"""
import execnet, sys
with execnet.Group(["popen", "popen"]) as group:
    for number in range(10):
        rsync = execnet.RSync({str(source)!r}, verbose=False)
        for gateway in group:
            rsync.add_target(gateway, {str(dest)!r}, delete=True)
        rsync.send()
        if number % 2:
            group[0].remote_exec("import shutil; shutil.rmtree(%r)" % {str(dest / "sub")!r}).waitclose()
        else:
            group[0].remote_exec("import os; os.makedirs(%r + '/x/y')" % {str(dest)!r}).waitclose()
    rsync.add_target(group[0], {str(dest)!r}, delete=True)
    rsync.send()
"""
        run = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
        assert (run.returncode, run.stderr) == (0, "")
        assert tree(dest) == tree(source)

    def test_what_another_process_puts_in_the_place_of_what_is_to_go_may_stay(self, dest: Path) -> None:
        dest.touch()

        def keep(found: os.stat_result) -> bool:
            if stat.S_ISREG(found.st_mode):
                dest.unlink()
                (dest / "inside").mkdir(parents=True)  # now, before the file is removed
            return stat.S_ISDIR(found.st_mode)

        rsync_remote.remove(str(dest), keep)
        assert tree(dest) == {"inside": None}

    def test_delete_spares_the_unfinished_files_of_others_and_removes_those_left_behind(
        self, sync: Sync, dest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fresh = dest / f"{rsync_remote.TEMPORARY}fresh"
        dest.mkdir()
        fresh.touch()
        sync(delete=True)
        assert fresh.exists()
        assert rsync_remote.is_being_written(fresh.name, str(fresh))
        monkeypatch.setattr(rsync_remote, "WRITING_SECONDS", -1)
        receiver = rsync_remote.Tree(str(dest), True)
        receiver.add("dir", -1, b"", 0o755)
        receiver.remove_others()
        assert tree(dest) == {}

    def test_a_target_file_that_is_longer_by_now_is_not_taken_for_the_same(self, dest: Path) -> None:
        dest.write_bytes(b"hello, and more")
        assert rsync_remote.sha256(str(dest), 5) is None
        assert rsync_remote.sha256(str(dest), 15) == hashlib.sha256(b"hello, and more").hexdigest()
        assert rsync_remote.sha256(str(dest), 16) is None

    def test_a_fifo_or_link_in_the_target_is_not_read(self, dest: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        dest.symlink_to(tmp_path / "file")
        with pytest.raises(OSError):
            rsync_remote.sha256(str(dest), 0)
        dest.unlink()
        os.mkfifo(dest)
        assert rsync_remote.sha256(str(dest), 0) is None

    def test_a_source_that_never_stands_still(self, sync: Sync, source: Path, dest: Path, tmp_path: Path) -> None:
        program = """
import os, random, sys, time
os.chdir(sys.argv[1])
print("", flush=True)
acts = [
    lambda name: open(name, "a").write("x" * random.choice([1, 1000, 600000])),
    os.remove, os.mkdir, os.rmdir,
    lambda name: (os.mkfifo(name), time.sleep(0.002), os.remove(name)),
    lambda name: os.symlink(sys.argv[2] + "/secret", name),
    lambda name: os.symlink(sys.argv[2], name),
    lambda name: os.rename(name, random.choice(names)),
]
names = ["a", "b", "c", "d", "d/a", "d/b", "d/d", "d/d/c"]
while True:
    name = random.choice(names)
    try:
        random.choice(acts)(name)
        if os.path.isfile(name) and os.path.getsize(name) > 3000000:
            os.truncate(name, 0)
    except OSError:
        pass
"""
        outside = tmp_path / "outside"  # what the program writes through its links goes there, too
        outside.mkdir()
        (outside / "secret").write_bytes(b"secret")
        with subprocess.Popen([sys.executable, "-c", program, source, outside], stdout=subprocess.PIPE) as restless:
            assert restless.stdout is not None
            restless.stdout.readline()
            try:
                ended = 0
                deadline = time.monotonic() + 3
                while time.monotonic() < deadline:
                    try:
                        sync(delete=True)
                        ended += 1
                    except ValueError as error:
                        assert "neither file, folder nor link" in str(error)
                    files = [path for path in dest.rglob("*") if path.is_file() and not path.is_symlink()]
                    assert not any(path.read_bytes().startswith(b"secret") for path in files)
            finally:
                restless.kill()
        assert ended
        for path in source.rglob("*"):
            if stat.S_ISFIFO(path.lstat().st_mode):
                path.unlink()
        sync(delete=True)
        assert tree(dest) == tree(source)

    def test_targets_killed_at_any_moment_are_put_right_by_the_next_sync(
        self, group: execnet.Group, source: Path, dest: Path
    ) -> None:
        for number in range(40):
            (source / str(number)).write_bytes(os.urandom(20000))
        for moment in range(12):
            gateway = group.makegateway("popen")
            timer = threading.Timer(moment * 0.004, gateway._io.popen.kill)
            rsync_ = RSync(source, verbose=False)
            (source / str(moment)).write_bytes(os.urandom(20000))
            timer.start()
            try:
                rsync_.add_target(gateway, dest)
                rsync_.send()
            except (EOFError, OSError):
                pass
            timer.join(SECONDS)
            for path in dest.rglob("[0-9]*"):
                assert path.stat().st_size == 20000
        gateway = group.makegateway("popen")
        rsync_.add_target(gateway, dest)
        rsync_.send()
        found = tree(dest)
        for name in [name for name in found if name.startswith(rsync_remote.TEMPORARY)]:
            del found[name]
        assert found == tree(source)

    def test_a_full_disk_fails_its_own_target_by_name_and_leaves_nothing_half(
        self, group: execnet.Group, source: Path, tmp_path: Path
    ) -> None:
        (source / "small").write_bytes(b"hello")
        (source / "large").write_bytes(bytes(3 * rsync_source.CHUNK))
        full, roomy = group.makegateways(["popen//id=full", "popen"])
        limit = f"import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({2 * rsync_source.CHUNK},) * 2)"
        full.remote_exec(limit).waitclose(SECONDS)
        rsync_ = RSync(source, verbose=False)
        rsync_.add_target(full, tmp_path / "x")
        rsync_.add_target(roomy, tmp_path / "y")
        with pytest.raises(execnet.RemoteError, match=r"(?s)full.*File too large"):
            rsync_.send()
        assert tree(tmp_path / "x") == {}
        assert tree(tmp_path / "y") == tree(source)


class TestNastyTrees:
    def test_folders_nested_deeper_than_python_recurses(self, sync: Sync, source: Path, dest: Path) -> None:
        depth = sys.getrecursionlimit() + 100
        subprocess.run(["mkdir", "-p", "d/" * depth], cwd=source, check=True)
        (source / "d" / "d" / "a").write_bytes(b"hello")
        try:
            assert sync() == ["d/d/a"]
            subprocess.run(["diff", "-r", source, dest], check=True, timeout=SECONDS)
        finally:
            subprocess.run(["rm", "-r", source / "d", dest], check=True)

    def test_what_names_modes_and_holes_there_are(self, sync: Sync, source: Path, dest: Path) -> None:
        names = [b"n" * 255, b"new\nline", b"\xff\xfe\x80", b" ", b"-", b"~", b"...", b"\\", b"a:b", "ä".encode() * 127]
        for name in names:
            Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_bytes(name)
        (source / "loop").symlink_to("loop")
        (source / "up").symlink_to("..")
        (source / "self").symlink_to(source)
        os.link(source / "~", source / "hard link")
        (source / "setuid").write_bytes(b"#!")
        (source / "setuid").chmod(0o6755)
        (source / "sticky").mkdir()
        (source / "sticky").chmod(0o1777)
        with (source / "hole").open("wb") as stream:
            stream.seek(10 << 20)
            stream.write(b"x")
        sync(delete=True)
        expected = {**tree(source), "self": str(source)}
        assert tree(dest) == expected
        assert mode(dest / "setuid") == 0o6755
        assert mode(dest / "sticky") == 0o1777
        assert sync(delete=True) == []

    def test_names_that_stdout_cannot_show(self, source: Path, dest: Path) -> None:
        (source / "grün").touch()
        program = f"""
import execnet
with execnet.Group(["popen"]) as group:
    rsync = execnet.RSync({str(source)!r})
    rsync.add_target(group[0], {str(dest)!r})
    rsync.send()
"""
        environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
        run = subprocess.run([sys.executable, "-c", program], timeout=60, env=environ, capture_output=True)
        assert (run.returncode, run.stderr) == (0, b"")
        assert run.stdout == b"gw0 <= gr\\xfcn\n"


class TestRemoteSide:
    """What the receiving side does with a description that is no tree."""

    @pytest.fixture
    def receiver(self, dest: Path) -> rsync_remote.Tree:
        receiver = rsync_remote.Tree(str(dest), False)
        receiver.add("dir", -1, b"", 0o755)
        return receiver

    @pytest.mark.parametrize("name", [b"..", b".", b"", b"../up", b"a/b", b"/etc/x", b"a\0b"])
    @pytest.mark.parametrize(
        "facts", [("dir", 0o755), ("file", 0o644, 0, 0), ("link", b"x", False)], ids=lambda f: f[0]
    )
    def test_names_that_lead_elsewhere_are_refused(
        self, receiver: rsync_remote.Tree, name: bytes, facts: tuple[Any, ...]
    ) -> None:
        kind, *rest = facts
        with pytest.raises(ValueError, match="refused"):
            receiver.add(kind, 0, name, *rest)

    @pytest.mark.parametrize("parent", [-1, 1, 7])
    def test_only_folders_have_something_inside(self, receiver: rsync_remote.Tree, parent: int) -> None:
        receiver.add("link", 0, b"link", b"/", False)
        with pytest.raises(ValueError, match="refused"):
            receiver.add("file", parent, b"x", 0o644, 0, 0)

    def test_unknown_kinds_are_refused(self, receiver: rsync_remote.Tree) -> None:
        with pytest.raises(ValueError, match="'door'"):
            receiver.add("door", 0, b"x")

    def test_an_initiator_that_gives_up_leaves_no_part_of_a_file(self, gw: execnet.Gateway, dest: Path) -> None:
        channel = gw.remote_exec(rsync_remote)
        channel.send((os.fsencode(dest), False))
        channel.send([("dir", -1, b"", 0o755), ("file", 0, b"a", 0o644, 10, 0)])
        channel.send(None)
        channel.send(("data", b"hello", False))
        assert [channel.receive(SECONDS)[0] for _ in range(3)] == ["want", "listed", "more"]
        assert len(os.listdir(dest)) == 1
        channel.close()
        gw.exit()
        gw._io.popen.wait(SECONDS)
        assert os.listdir(dest) == []

    def test_serve_rsync_over_any_channel(self, dest: Path) -> None:
        class Scripted:
            def __init__(self, *items: object) -> None:
                self.items, self.sent = list(items), list[object]()
                self.send = self.sent.append

            def receive(self) -> object:
                return self.items.pop(0)

        dest.mkdir()
        (dest / "a").write_bytes(b"HELLO")
        channel: Any = Scripted(
            (os.fsencode(dest), False),
            [("dir", -1, b"", 0o755), ("file", 0, b"a", 0o644, 5, 7 * 10**9), ("file", 0, b"b", 0o644, 3, 0)],
            None, ("same",), ("gone",), ("end",),
        )  # fmt: skip
        rsync_remote.serve_rsync(channel)
        digest = hashlib.sha256(b"HELLO").hexdigest()
        assert channel.sent == [
            ("want", [(1, digest), (2, None)]), ("listed",), ("ack", 1), ("ack", 2), ("done",)
        ]  # fmt: skip
        assert (dest / "a").stat().st_mtime == 7


def test_mode_and_time_are_never_set_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    before = outside.stat()
    link = tmp_path / "link"
    link.symlink_to(outside)
    rsync_remote.set_mode(str(link), 0o100751)
    rsync_remote.set_time(str(link), 10**18)
    assert (outside.stat().st_mode, outside.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    rsync_remote.set_mode(str(outside), 0o100751)
    assert outside.stat().st_mode & 0o777 == 0o751
