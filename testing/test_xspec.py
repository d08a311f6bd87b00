"""XSpec, and the commands that specs become."""

from __future__ import annotations

import copy
import os
import pickle
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execnet import gateway_io
from execnet.xspec import XSpec, multiplied

KNOWN = [
    *("chdir", "dont_write_bytecode", "execmodel", "id", "installvia", "nice", "popen"),
    *("python", "socket", "ssh", "ssh_command", "ssh_config", "vagrant_ssh", "via"),
]


def test_keys_have_the_text_behind_the_first_equals_sign_or_are_true() -> None:
    spec = XSpec("popen//python=a=b c//id=x")
    assert spec.popen is True
    assert spec.python == "a=b c"
    assert spec.id == "x"


@pytest.mark.parametrize("key", KNOWN)
def test_known_keys_are_none_unless_given(key: str) -> None:
    other = "ssh" if key == "popen" else "popen"
    assert getattr(XSpec(other), key) is None
    assert getattr(XSpec(f"{key}=value"), key) == "value"


def test_unknown_keys_become_attributes_and_missing_ones_are_none() -> None:
    spec = XSpec("popen//colour=red//flag")
    assert spec.colour == "red"
    assert spec.flag is True
    assert spec.anything is None


def test_private_names_are_no_keys_and_no_attributes() -> None:
    with pytest.raises(AttributeError, match="_x"):
        XSpec("popen//_x=1")
    with pytest.raises(AttributeError, match="_spec"):
        XSpec("_spec=1")
    with pytest.raises(AttributeError, match="_missing"):
        XSpec("popen")._missing  # noqa: B018


def test_env_collects_names_and_values() -> None:
    assert XSpec("popen//env:A=1=2//env:B=").env == {"A": "1=2", "B": ""}
    assert XSpec("popen").env == {}


@pytest.mark.parametrize("string", ["popen//popen", "id=1//popen//id=2", "popen//env=1"])
def test_a_key_given_twice_is_refused(string: str) -> None:
    with pytest.raises(ValueError, match="duplicate key"):
        XSpec(string)


@pytest.mark.parametrize("string", ["", "popen//", "=x", "////x", "popen////x", "a////b=1", "//popen", "//"])
def test_an_empty_key_is_refused(string: str) -> None:
    with pytest.raises(ValueError, match="empty key"):
        XSpec(string)


# Two slashes in a value


@pytest.mark.parametrize(
    ("string", "chdir", "id"),
    [
        ("popen//chdir=////server/share", "//server/share", None),
        ("chdir=////server/share//id=x", "//server/share", "x"),
        ("chdir=a//////id=x", "a//", "x"),
        ("chdir=a////", "a//", None),
        ("chdir=a/////b", "a///b", None),
        ("chdir=////////", "////", None),
        ("chdir=//////////id=x", "////", "x"),
        ("chdir=c:////a////b", "c://a//b", None),
    ],
)
def test_four_slashes_are_two_in_a_value(string: str, chdir: str, id: str | None) -> None:
    spec = XSpec(string)
    assert (spec.chdir, spec.id, str(spec)) == (chdir, id, string)


def test_a_url_can_stand_in_a_spec() -> None:
    spec = XSpec("popen//env:PROXY=http:////proxy:3128/?a=b//env:X=1")
    assert spec.env == {"PROXY": "http://proxy:3128/?a=b", "X": "1"}


@pytest.mark.parametrize(
    ("string", "attributes"),
    [
        ("chdir=/tmp///id=x", {"chdir": "/tmp", "/id": "x"}),
        ("popen///x", {"popen": True, "/x": True}),
        ("chdir=/a/b/", {"chdir": "/a/b/"}),
        ("x=///", {"x": "", "/": True}),
    ],
)
def test_three_slashes_are_what_they_were(string: str, attributes: dict[str, object]) -> None:
    found = {key: value for key, value in vars(XSpec(string)).items() if key not in ("env", "_spec")}
    assert found == attributes


SLASHED = st.text("a/=: \\", max_size=12)


@given(SLASHED.filter(lambda value: not value.endswith("/")), SLASHED)
def test_any_value_can_be_said_with_its_slashes_doubled(first: str, last: str) -> None:
    # Only before another key a single slash at the end can't be told from the separator's.
    string = f"env:A={first.replace('//', '////')}//env:B={last.replace('//', '////')}"
    spec = XSpec(string)
    assert spec.env == {"A": first, "B": last}
    assert str(spec) == string
    assert vars(XSpec(str(spec))) == vars(spec)


# Several at once


def test_a_number_before_a_star_is_so_many() -> None:
    single = XSpec("popen")
    assert multiplied(["2*popen//nice=1", single, None, "1*popen//id=a"]) == [
        *("popen//nice=1", "popen//nice=1", single, None, "popen//id=a")
    ]


@pytest.mark.parametrize("string", ["popen", "x*popen", "id=2*3//popen", "-1*popen", "²*popen", "*popen", "popen*2"])
def test_what_is_no_such_number_is_left_as_it_is(string: str) -> None:
    assert multiplied([string]) == [string]


def test_none_and_several_of_one_id_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"the number before \* must be at least 1: '0\*popen'"):
        multiplied(["0*popen"])
    with pytest.raises(ValueError, match=r"2 gateways can't have the same id: '2\*popen//id=a'"):
        multiplied(["2*popen//id=a"])


def test_str_repr_and_raw_string() -> None:
    spec = XSpec("socket=192.168.102.2:8888//python=c:/this/python2.5")
    assert str(spec) == spec._spec == "socket=192.168.102.2:8888//python=c:/this/python2.5"
    assert repr(spec) == f"<XSpec '{spec}'>"


def test_equality_and_hash_use_the_string_only() -> None:
    first, second = XSpec("popen//id=a"), XSpec("popen//id=a")
    first.id = None
    first.chdir = "/tmp"
    assert first == second
    assert not first != second  # noqa: SIM202 -- __ne__ is meant
    assert hash(first) == hash(second) == hash("popen//id=a")
    assert first != XSpec("popen//id=b")
    assert first != "popen//id=a"
    assert len({first, second}) == 1


def test_copies_and_pickles_are_equal() -> None:
    spec = XSpec("popen//id=a//env:X=1")
    for other in (copy.copy(spec), copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):
        assert other == spec
        assert other.id == "a"
        assert other.env == {"X": "1"}


@pytest.mark.parametrize(
    ("string", "same"), [("popen", True), ("popen//python=x", True), ("popen//chdir=a", False), ("ssh=x", False)]
)
def test_samefilesystem(string: str, same: bool) -> None:
    assert XSpec(string)._samefilesystem() is same


LINE = gateway_io.popen_bootstrapline


@pytest.mark.parametrize(
    ("string", "args"),
    [
        ("popen", [sys.executable, "-u", "-c", LINE]),
        ("popen//dont_write_bytecode", [sys.executable, "-u", "-B", "-c", LINE]),
        ("popen//python=python3 -X dev", ["python3", "-X", "dev", "-u", "-c", LINE]),
        ("popen//python='/with a/space' -E", ["/with a/space", "-E", "-u", "-c", LINE]),
    ],
)
def test_popen_args(string: str, args: list[str]) -> None:
    assert gateway_io.popen_args(XSpec(string)) == args


@pytest.mark.parametrize(
    ("string", "args"),
    [
        ("ssh=host", ["ssh", "-C", "host", f'python -c "{LINE}"']),
        (
            "ssh=-p 22100 user@host//python=python3//ssh_config=file",
            ["ssh", "-C", "-F", "file", "-p", "22100", "user@host", f'python3 -c "{LINE}"'],
        ),
    ],
)
def test_ssh_args(string: str, args: list[str]) -> None:
    assert gateway_io.ssh_args(XSpec(string)) == args


FAR = f'python -c "{LINE}"'


@pytest.mark.parametrize(
    ("string", "variable", "args"),
    [
        ("ssh=host//ssh_command=ssh -J jump", None, ["ssh", "-J", "jump", "host", FAR]),
        ("ssh=host//ssh_command=plink -batch", "ssh -J jump", ["plink", "-batch", "host", FAR]),
        ("ssh=-p 1 host", "'/with a space/ssh' -v", ["/with a space/ssh", "-v", "-p", "1", "host", FAR]),
        ("ssh=host//ssh_config=file", "ssh -v", ["ssh", "-v", "-F", "file", "host", FAR]),
        ("ssh=host", "", ["ssh", "-C", "host", FAR]),
        ("ssh=host//ssh_command=", "  ", ["ssh", "-C", "host", FAR]),
        ("ssh=host//via=gw0", "ssh -v", ["ssh", "-C", "host", FAR]),
        ("ssh=host//via=gw0//ssh_command=ssh -v", None, ["ssh", "-v", "host", FAR]),
        ("ssh=host//ssh_command=env A=http:////x ssh", None, ["env", "A=http://x", "ssh", "host", FAR]),
    ],
)
def test_an_own_command_takes_the_place_of_ssh(
    string: str, variable: str | None, args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is None:
        monkeypatch.delenv("EXECNET_SSH", raising=False)
    else:
        monkeypatch.setenv("EXECNET_SSH", variable)
    assert gateway_io.ssh_args(XSpec(string)) == args


def test_a_command_that_cannot_be_read_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no command: \"ssh '\": No closing quotation"):
        gateway_io.ssh_args(XSpec("ssh=host//ssh_command=ssh '"))


@pytest.mark.parametrize(
    ("string", "args"),
    [
        ("vagrant_ssh=default", ["vagrant", "ssh", "default", "--", "-C", f'python -c "{LINE}"']),
        (
            "vagrant_ssh=default//python=python3//ssh_config=file",
            ["vagrant", "ssh", "default", "--", "-C", "-F", "file", f'python3 -c "{LINE}"'],
        ),
    ],
)
def test_vagrant_ssh_args(string: str, args: list[str]) -> None:
    assert gateway_io.vagrant_ssh_args(XSpec(string)) == args


def test_the_bootstrap_line_is_looked_up_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_io, "popen_bootstrapline", "pass")
    assert gateway_io.popen_args(XSpec("popen"))[-1] == "pass"
    assert gateway_io.ssh_args(XSpec("ssh=host"))[-1] == 'python -c "pass"'


def test_backslashes_are_kept_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gateway_io.shell_split_path(r"a\ b c") == ["a b", "c"]
    monkeypatch.setattr(os, "name", "nt")
    assert gateway_io.shell_split_path(r"C:\Python\python.exe -x") == [r"C:\Python\python.exe", "-x"]
