"""RSync: targets become equal to the source, and only what differs travels."""

from __future__ import annotations

import builtins
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import execnet
from execnet import RSync, rsync, rsync_remote

SECONDS = 10.0


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "dest"


@pytest.fixture
def sync(gw, source, dest):
    """Bring dest up to date; returns the relative paths that were sent."""

    def sync(callback=None, top=source, filter=lambda path: True, **options):
        sent, keep = [], filter

        class Noting(RSync):
            def _report_send_file(self, gateway, modified_rel_path):
                assert gateway is gw
                sent.append(modified_rel_path)

            def filter(self, path):
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


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


class TestContent:
    def test_a_tree_arrives(self, sync, source, dest):
        (source / "a").write_bytes(b"hello")
        (source / "empty").touch()
        (source / "sub" / "deeper").mkdir(parents=True)
        (source / "sub" / "deeper" / "b").write_bytes(bytes(range(256)))
        (source / "sub" / "nothing").mkdir()
        assert sync() == ["a", "empty", "sub/deeper/b"]
        assert tree(dest) == tree(source)

    def test_nothing_travels_the_second_time(self, sync, source):
        (source / "a").write_bytes(b"hello")
        assert sync() == ["a"]
        assert sync() == []

    def test_a_change_of_size_or_content_travels(self, sync, source, dest):
        for name in "abc":
            (source / name).write_bytes(b"hello")
        sync()
        (source / "a").write_bytes(b"hello!")
        (source / "b").write_bytes(b"HELLO")
        os.utime(source / "b", ns=(0, 10**18))
        assert sync() == ["a", "b"]
        assert tree(dest) == tree(source)

    def test_equal_content_with_another_time_does_not_travel_but_gets_the_time(self, sync, source, dest):
        (source / "a").write_bytes(b"hello")
        sync()
        os.utime(source / "a", ns=(0, 10**18 + 1))
        assert sync() == []
        assert (dest / "a").stat().st_mtime_ns == 10**18 + 1

    def test_size_and_time_are_trusted(self, sync, source, dest):
        (source / "a").write_bytes(b"hello")
        sync()
        (dest / "a").write_bytes(b"HELLO")
        os.utime(dest / "a", ns=(0, (source / "a").stat().st_mtime_ns))
        assert sync() == []
        assert (dest / "a").read_bytes() == b"HELLO"

    def test_mode_and_time_are_kept(self, sync, source, dest):
        (source / "a").write_bytes(b"#!")
        (source / "a").chmod(0o751)
        os.utime(source / "a", ns=(0, 1234567890123456789))
        sync()
        assert (mode(dest / "a"), (dest / "a").stat().st_mtime_ns) == (0o751, 1234567890123456789)
        (source / "a").chmod(0o640)
        assert sync() == []
        assert mode(dest / "a") == 0o640

    def test_folders_are_owner_writable(self, sync, source, dest):
        (source / "sub").mkdir()
        (source / "sub" / "a").touch()
        (source / "sub").chmod(0o555)
        source.chmod(0o510)
        sync()
        assert (mode(dest), mode(dest / "sub")) == (0o710, 0o755)

    @pytest.mark.parametrize("size", [rsync.CHUNK - 1, rsync.CHUNK, rsync.CHUNK + 1, 3 * rsync.WINDOW_BYTES + 5])
    def test_large_files_travel_in_parts(self, sync, source, dest, size):
        content = os.urandom(1000) * (size // 1000 + 1)
        (source / "large").write_bytes(content[:size])
        sync()
        assert (dest / "large").read_bytes() == content[:size]

    def test_many_files(self, sync, source, dest):
        for number in range(rsync.ENTRIES_PER_MESSAGE * 2 + 1):
            (source / str(number)).write_text(str(number))
        assert len(sync()) == rsync.ENTRIES_PER_MESSAGE * 2 + 1
        assert tree(dest) == tree(source)

    def test_a_single_file(self, sync, source, dest):
        (source / "a").write_bytes(b"hello")
        assert sync(top=source / "a") == [""]
        assert dest.read_bytes() == b"hello"

    def test_a_source_given_through_a_link_or_relative(self, sync, source, dest, monkeypatch, tmp_path):
        (source / "a").write_bytes(b"hello")
        (tmp_path / "link").symlink_to(source)
        monkeypatch.chdir(tmp_path)
        sync(top="link")
        assert tree(dest) == {"a": b"hello"}

    def test_missing_parents_of_the_target_are_made(self, gw, source, tmp_path):
        (source / "a").write_bytes(b"hello")
        for top, to, made in [(source, "x/y", "x/y/a"), (source / "a", "z/b", "z/b")]:
            rsync = RSync(top, verbose=False)
            rsync.add_target(gw, tmp_path / to)
            rsync.send()
            assert (tmp_path / made).read_bytes() == b"hello"

    @pytest.mark.parametrize("name", ["grün".encode(), b"\xff\xfe", b"new\nline", b"-rf *"])
    def test_any_file_name(self, gw, source, dest, name, capsys):
        Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_bytes(b"hello")
        os.symlink(name, os.fsencode(source) + b"/link")
        rsync = RSync(source)
        rsync.add_target(gw, dest)
        rsync.send()
        assert sorted(os.listdir(os.fsencode(dest))) == sorted([name, b"link"])
        assert os.readlink(os.fsencode(dest) + b"/link") == name
        assert name.decode(errors="replace") in capsys.readouterr().out

    def test_on_every_python(self, group, other_python, source, dest):
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
    def test_with_a_green_model(self, source, dest, backend):
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

    def test_memory_stays_bounded(self, source, dest):
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

    def test_through_a_via(self, group, source, dest):
        (source / "a").write_bytes(b"hello" * 1000000)
        group.makegateways(["popen//id=a", "popen//id=b//via=a"])
        rsync = RSync(source, verbose=False)
        rsync.add_target(group["b"], dest)
        rsync.send()
        assert tree(dest) == tree(source)


class TestWhatIsInTheWay:
    def test_without_delete_nothing_is_removed(self, sync, source, dest):
        (dest / "sub").mkdir(parents=True)
        (dest / "sub" / "extra").touch()
        (source / "sub").mkdir()
        sync()
        assert tree(dest) == {"sub": None, "sub/extra": b""}

    def test_with_delete_everything_else_is_removed(self, sync, source, dest):
        (dest / "sub" / "folder").mkdir(parents=True)
        (dest / "sub" / "folder" / "extra").touch()
        (dest / "extra").touch()
        (dest / "link").symlink_to("nowhere")
        (source / "sub").mkdir()
        (source / "a").touch()
        sync(delete=True)
        assert tree(dest) == tree(source)

    def test_what_delete_removes_is_not_followed(self, sync, dest, tmp_path):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "keep").touch()
        dest.mkdir()
        (dest / "link").symlink_to(tmp_path / "other")
        sync(delete=True)
        assert tree(dest) == {}
        assert (tmp_path / "other" / "keep").exists()

    def test_a_folder_takes_the_place_of_a_file_and_the_reverse(self, sync, source, dest):
        (source / "a").mkdir()
        (source / "b").write_bytes(b"hello")
        (source / "c").symlink_to("b")
        (dest / "b" / "sub").mkdir(parents=True)
        (dest / "c" / "sub").mkdir(parents=True)
        (dest / "a").touch()
        sync()
        assert tree(dest) == tree(source)

    def test_links_in_the_target_lead_nothing_outside(self, sync, source, dest, tmp_path):
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

    def test_a_target_that_is_a_link_to_a_folder_stays_one(self, sync, source, dest, tmp_path):
        (tmp_path / "other").mkdir()
        dest.symlink_to(tmp_path / "other")
        (source / "a").touch()
        sync()
        assert dest.is_symlink() and tree(tmp_path / "other") == {"a": b""}

    def test_a_full_folder_is_not_replaced_by_a_single_file(self, sync, source, dest):
        (source / "a").touch()
        dest.mkdir()
        (dest / "precious").touch()
        with pytest.raises(execnet.RemoteError, match="not empty"):
            sync(top=source / "a")
        assert tree(dest) == {"precious": b""}

    def test_no_temporary_file_stays(self, sync, source, dest):
        (source / "a").write_bytes(b"hello")
        sync()
        assert os.listdir(dest) == ["a"]


class TestLinks:
    def test_links_into_the_tree_follow_it(self, sync, source, dest):
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
    def test_other_links_are_sent_as_they_are(self, sync, source, dest, target):
        target = target.format(source=source)
        (source / "link").symlink_to(target)
        sync()
        assert os.readlink(dest / "link") == target

    def test_links_are_put_right(self, sync, source, dest):
        (source / "link").symlink_to("one")
        sync()
        (source / "link").unlink()
        (source / "link").symlink_to("two")
        sync()
        assert os.readlink(dest / "link") == "two"

    def test_a_relative_target_gets_links_that_work(self, group, source, tmp_path):
        (source / "a").write_bytes(b"hello")
        (source / "link").symlink_to(source / "a")
        gateway = group.makegateway(f"popen//chdir={tmp_path / 'there'}")
        rsync = RSync(source, verbose=False)
        rsync.add_target(gateway, "copy")
        rsync.send()
        assert os.readlink(tmp_path / "there" / "copy" / "link") == str(tmp_path / "there" / "copy" / "a")


class TestFilterAndReports:
    def test_the_filter_is_asked_about_all_but_the_top(self, sync, source, dest):
        (source / "sub").mkdir()
        (source / "sub" / "a").touch()
        (source / "out").mkdir()
        (source / "out" / "b").touch()
        asked = []
        sync(filter=lambda path: asked.append(path) or not path.endswith("out"))
        assert sorted(asked) == [str(source / name) for name in ("out", "sub", "sub/a")]
        assert tree(dest) == {"sub": None, "sub/a": b""}

    def test_what_is_filtered_is_removed_with_delete(self, sync, source, dest):
        (source / "a").touch()
        sync()
        sync(filter=lambda path: False, delete=True)
        assert tree(dest) == {}

    def test_callbacks_tell_the_bytes(self, sync, source):
        (source / "a").write_bytes(b"x" * 10)
        (source / "b").write_bytes(b"y" * rsync.CHUNK * 3)
        events = []
        sync(callback=lambda *event: events.append(event))
        assert [event[:2] for event in events] == [
            ("list", 10 + rsync.CHUNK * 3), ("ack", 10), ("ack", rsync.CHUNK * 3)
        ]  # fmt: skip
        assert all(isinstance(channel, execnet.Channel) for _, _, channel in events)

    def test_files_found_equal_by_checksum_are_listed_and_acknowledged(self, sync, source):
        (source / "a").write_bytes(b"x" * 10)
        sync()
        os.utime(source / "a", ns=(0, 0))
        events = []
        assert sync(callback=lambda *event: events.append(event[:2])) == []
        assert events == [("list", 10), ("ack", 10)]

    def test_verbose_prints_what_is_sent(self, gw, source, dest, capsys):
        (source / "sub").mkdir()
        (source / "sub" / "a").touch()
        for verbose, told in [(True, f"{gw} <= sub/a\n"), (False, "")]:
            rsync = RSync(source, verbose=verbose)
            rsync.add_target(gw, dest, delete=True)
            printed = repr(gw)
            rsync.send()
            lines = capsys.readouterr().out
            assert lines.endswith("<= sub/a\n") == bool(told) and printed[:20] == repr(gw)[:20]
            (dest / "sub" / "a").unlink()

    def test_the_finishedcallback_is_called_when_the_target_is_complete(self, gw, source, dest):
        (source / "a").touch()
        calls = []
        rsync = RSync(source, verbose=False)
        rsync.add_target(gw, dest, finishedcallback=lambda: calls.append((dest / "a").exists()))
        rsync.send()
        assert calls == [True]


class TestTargets:
    def test_several_at_once(self, group, source, tmp_path):
        (source / "a").write_bytes(b"hello")
        (source / "large").write_bytes(os.urandom(3 * rsync.WINDOW_BYTES))
        dests = [tmp_path / f"dest{number}" for number in range(3)]
        finished = []
        rsync_ = RSync(source, verbose=False)
        for dest, gateway in zip(dests, group.makegateways(["popen"] * 3)):
            rsync_.add_target(gateway, dest, finishedcallback=lambda dest=dest: finished.append(dest))
        rsync_.send()
        assert sorted(finished) == dests
        assert [tree(dest) for dest in dests] == [tree(source)] * 3

    def test_two_on_one_gateway(self, gw, source, tmp_path):
        (source / "a").write_bytes(b"hello")
        rsync = RSync(source, verbose=False)
        for name in "xy":
            rsync.add_target(gw, tmp_path / name)
        rsync.send()
        assert tree(tmp_path / "x") == tree(tmp_path / "y") == {"a": b"hello"}

    def test_a_checksum_is_computed_once_for_all(self, group, source, tmp_path, monkeypatch):
        (source / "a").write_bytes(b"hello")
        gateways = group.makegateways(["popen"] * 3)
        opened = []

        def noting_open(path, mode):
            opened.append(path)
            return builtins.open(path, mode)

        for _ in range(2):
            rsync_ = RSync(source, verbose=False)
            for number, gateway in enumerate(gateways):
                rsync_.add_target(gateway, tmp_path / f"dest{number}")
            rsync_.send()
            os.utime(source / "a", ns=(0, 0))
            monkeypatch.setattr(rsync, "open", noting_open, raising=False)
        assert len(opened) == 1

    def test_without_target(self, gw, source, dest):
        rsync = RSync(source, verbose=False)
        with pytest.raises(OSError, match="no targets"):
            rsync.send()
        assert rsync.send(raises=False) is None
        rsync.add_target(gw, dest)
        rsync.send()
        with pytest.raises(OSError, match="no targets"):
            rsync.send()
        rsync.add_target(gw, dest)
        rsync.send()

    def test_only_delete_is_an_option(self, gw, source, dest):
        rsync = RSync(source)
        with pytest.raises(TypeError, match="compress"):
            rsync.add_target(gw, dest, compress=True)

    def test_its_attributes(self, gw, source, dest):
        rsync = RSync(sourcedir=source, callback=None, verbose=2)
        assert (rsync._sourcedir, rsync._verbose, rsync._channels) == (str(source), 2, {})
        assert rsync._receivequeue.empty()
        rsync.add_target(gw, dest)
        assert len(rsync._channels) == 1
        rsync.send()
        assert rsync._channels == {} and rsync._receivequeue.empty()

    def test_main_thread_only_workers(self, group, source, tmp_path):
        (source / "a").write_bytes(b"hello")
        group.set_execmodel("main_thread_only")
        gateway = group.makegateway("popen")
        for name in "xy":
            rsync = RSync(source, verbose=False)
            rsync.add_target(gateway, tmp_path / name)
            rsync.send()
        assert tree(tmp_path / "x") == tree(tmp_path / "y") == {"a": b"hello"}


class TestFailures:
    def test_a_target_that_cannot_be_written_fails_and_the_others_are_completed(self, gw, source, dest, tmp_path):
        (source / "a").write_bytes(b"hello")
        (tmp_path / "file").touch()
        rsync = RSync(source, verbose=False)
        rsync.add_target(gw, tmp_path / "file" / "inside")
        rsync.add_target(gw, dest)
        with pytest.raises(execnet.RemoteError, match="file/inside"):
            rsync.send()
        assert tree(dest) == {"a": b"hello"}
        assert rsync._channels == {}

    def test_a_worker_that_dies(self, group, source, dest):
        (source / "large").write_bytes(os.urandom(10 * rsync.WINDOW_BYTES))
        gateway = group.makegateway("popen")
        rsync_ = RSync(source, verbose=False, callback=lambda *event: gateway._io.popen.kill())
        rsync_.add_target(gateway, dest)
        with pytest.raises(EOFError):
            rsync_.send()

    def test_a_missing_source_is_an_error_and_deletes_nothing(self, gw, source, dest):
        dest.mkdir()
        (dest / "precious").touch()
        rsync = RSync(source / "nix", verbose=False)
        rsync.add_target(gw, dest, delete=True)
        with pytest.raises(FileNotFoundError, match="nix"):
            rsync.send()
        assert tree(dest) == {"precious": b""}

    def test_what_cannot_be_sent_is_named(self, sync, source):
        os.mkfifo(source / "pipe")
        with pytest.raises(ValueError, match=r"cannot sync .*pipe"):
            sync()

    def test_the_gateway_is_usable_after_a_failure(self, gw, sync, source):
        os.mkfifo(source / "pipe")
        with pytest.raises(ValueError):
            sync()
        assert gw.remote_exec("channel.send(1)").receive(SECONDS) == 1

    @pytest.mark.parametrize("vanishing", ["a", "sub"])
    def test_what_vanishes_while_it_is_listed_is_left_out(self, sync, source, dest, vanishing):
        (source / "sub").mkdir()
        for name in ("a", "b", "sub/c"):
            (source / name).touch()

        def remove(path):
            if path == str(source / vanishing):
                os.system(f"rm -r '{path}'")
            return True

        sync(filter=remove)
        assert tree(dest) == tree(source)

    def test_what_vanishes_before_it_is_sent_is_left_out(self, sync, source, dest):
        for name in "abc":
            (source / name).write_bytes(b"hello")
        acknowledged = []

        def callback(what, size, channel):
            acknowledged.append(what)
            (source / "b").unlink(missing_ok=True)

        sync(callback=callback)
        assert tree(dest) == tree(source)
        assert acknowledged == ["list", "ack", "ack", "ack"]

    def test_an_error_in_a_callback_is_raised(self, sync, source):
        (source / "a").touch()
        with pytest.raises(ZeroDivisionError):
            sync(callback=lambda *event: 1 / 0)


class TestRemoteSide:
    """What the receiving side does with a description that is no tree."""

    @pytest.fixture
    def receiver(self, dest):
        receiver = rsync_remote.Tree(str(dest), False)
        receiver.add("dir", -1, b"", 0o755)
        return receiver

    @pytest.mark.parametrize("name", [b"..", b".", b"", b"../up", b"a/b", b"/etc/x", b"a\0b"])
    @pytest.mark.parametrize(
        "facts", [("dir", 0o755), ("file", 0o644, 0, 0), ("link", b"x", False)], ids=lambda f: f[0]
    )
    def test_names_that_lead_elsewhere_are_refused(self, receiver, name, facts):
        kind, *rest = facts
        with pytest.raises(ValueError, match="refused"):
            receiver.add(kind, 0, name, *rest)

    @pytest.mark.parametrize("parent", [-1, 1, 7])
    def test_only_folders_have_something_inside(self, receiver, parent):
        receiver.add("link", 0, b"link", b"/", False)
        with pytest.raises(ValueError, match="refused"):
            receiver.add("file", parent, b"x", 0o644, 0, 0)

    def test_unknown_kinds_are_refused(self, receiver):
        with pytest.raises(ValueError, match="'door'"):
            receiver.add("door", 0, b"x")

    def test_an_initiator_that_gives_up_leaves_no_part_of_a_file(self, gw, dest):
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

    def test_serve_rsync_over_any_channel(self, dest):
        class Scripted:
            def __init__(self, *items):
                self.items, self.sent = list(items), []
                self.send = self.sent.append

            def receive(self):
                return self.items.pop(0)

        dest.mkdir()
        (dest / "a").write_bytes(b"HELLO")
        channel = Scripted(
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
