"""What may run as this user: folders and files that nobody else can change, whatever umask or access list says."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm import owned
from slurm.element import Element, read_element, write_elements
from slurm.executors.local import LocalQueue, write_json

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
OTHER = 12345


@pytest.fixture(autouse=True)
def the_groups_umask() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


def as_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


WRONG = [
    pytest.param(as_link, "is a link", id="a link"),
    pytest.param(lambda path: path.chmod(0o775), "can be changed by others", id="group-writable"),
    pytest.param(lambda path: path.chmod(0o757), "can be changed by others", id="world-writable"),
    pytest.param(lambda path: os.chown(path, OTHER, -1), f"belongs to user {OTHER}", id="another's", marks=AS_ROOT),
]


@pytest.mark.parametrize(("spoil", "expected"), WRONG)
def test_a_folder_that_others_can_change_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], expected: str
) -> None:
    folder = owned.own_folder(tmp_path / "folder")
    assert folder.stat().st_mode & 0o777 == 0o755
    spoil(folder)
    with pytest.raises(PermissionError, match=expected) as caught:
        owned.own_folder(folder)
    assert caught.value.filename == str(folder)


@pytest.mark.parametrize(("spoil", "expected"), WRONG)
def test_a_job_list_that_others_can_change_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], expected: str
) -> None:
    file = tmp_path / "elements.json"
    write_elements(file, (Element(paths=("/a",), command=("true",)),))
    assert read_element(file, 0).paths == ("/a",)
    spoil(file)
    with pytest.raises(OSError, match=expected):
        read_element(file, 0)


@pytest.mark.parametrize(("spoil", "expected"), WRONG)
def test_a_queue_takes_no_array_that_others_can_change(
    tmp_path: Path, spoil: Callable[[Path], None], expected: str
) -> None:
    queue = LocalQueue(tmp_path / "queue")
    with queue.locked():
        write_json(queue.folder / "arrays" / "1.json", {})
    spoil(queue.folder / "arrays" / "1.json")
    with pytest.raises(OSError, match=expected):
        queue.array(1)
    spoil(queue.folder)
    with pytest.raises(PermissionError, match=expected), queue.locked():
        pass


@pytest.mark.parametrize(("spoil", "expected"), [pytest.param(lambda _: None, None, id="well"), *WRONG])
def test_the_batch_script_refuses_the_same_folders(
    tmp_path: Path, spoil: Callable[[Path], None], expected: str | None
) -> None:
    folder = owned.own_folder(tmp_path / "a folder's")
    spoil(folder)
    script = "\n".join([*owned.shell_checks([tmp_path / "..", folder]), "echo runs"])
    # The folder above stands for one that is checked first and is well.
    script = script.replace(f"{tmp_path}/..", str(owned.own_folder(tmp_path / "first")))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    if expected is None:
        assert (done.returncode, done.stdout, done.stderr) == (0, "runs\n", "")
    else:
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"tanda: {folder}: not a folder that only ")


def test_what_is_sealed_others_cannot_change(tmp_path: Path) -> None:
    (tmp_path / "code/jobs").mkdir(parents=True)
    (tmp_path / "code/jobs/entry.py").touch()
    (tmp_path / "code/link").symlink_to(tmp_path)
    tmp_path.chmod(0o2775)
    owned.seal(tmp_path / "code")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "code/jobs", tmp_path / "code")} == {0o755}
    assert (tmp_path / "code/jobs/entry.py").stat().st_mode & 0o777 == 0o644
    assert tmp_path.stat().st_mode & 0o7777 == 0o2775


def test_an_inherited_access_list_gives_no_rights(tmp_path: Path) -> None:
    # user::rwx group::rwx group:12345:rwx mask::rwx other::---, as setfacl -d writes it.
    entries = ((1, 7, 2**32 - 1), (4, 7, 2**32 - 1), (8, 7, OTHER), (16, 7, 2**32 - 1), (32, 0, 2**32 - 1))
    written = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(tmp_path, "system.posix_acl_default", written)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")
    (tmp_path / "plain").mkdir(mode=0o777)
    assert (tmp_path / "plain").stat().st_mode & 0o020
    folder = owned.own_folder(tmp_path / "own")
    with owned.owner_writes():
        (folder / "pickle").touch()
        (folder / "inner").mkdir()
    assert not [path for path in (folder, *folder.iterdir()) if path.stat().st_mode & 0o022]


def test_a_folder_is_made_sticky_by_its_owner_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o2770)
    assert owned.make_sticky(tmp_path) and tmp_path.stat().st_mode & 0o7777 == 0o3770


@AS_ROOT
def test_a_folder_of_anothers_is_left_as_it_is(tmp_path: Path) -> None:
    os.chown(tmp_path, OTHER, -1)
    tmp_path.chmod(0o770)
    assert not owned.make_sticky(tmp_path) and tmp_path.stat().st_mode & 0o7777 == 0o770
    tmp_path.chmod(0o755)
    assert owned.make_sticky(tmp_path)
