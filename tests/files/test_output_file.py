"""The output file under kills, full disks, other runs and other people's hands: every job's line, exactly once."""

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from farebox.errors import InputError
from farebox.records import VERSION, Result, job_id
from farebox_worker.files import DiskFullError, OutputError, OutputFile, default_output, output_line
from farebox_worker.files.written import PREFIX


def job(number):
    return job_id("farebox", "b", f"c{number}")


def line(number, outcome="succeeded", text="é\u2028\x85 ok"):
    body = json.dumps({"text": text}, ensure_ascii=False).encode()
    return output_line(
        job(number), Result(VERSION, f"c{number}", "p:m", outcome, status_code=200, body=body, cost_nusd=number)
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.jsonl"


@pytest.fixture
def out(path):
    with OutputFile.open(path) as file:
        yield file


def reopened(path):
    with OutputFile.open(path) as file:
        return file


def test_the_default_name_is_the_input_files_with_a_suffix():
    assert default_output("a/prompts.jsonl") == Path("a/prompts.jsonl.out.jsonl")


def test_what_was_written_is_found_again(path, out):
    outcomes = ["succeeded", "failed", "cancelled", "succeeded"]
    assert out.append([line(number, outcome) for number, outcome in enumerate(outcomes)]) == 4
    out.close()
    again = reopened(path)
    for file in (out, again):
        assert (file.lines, file.spent_nusd, len(file.done)) == (4, 0 + 1 + 2 + 3, 4)
        assert file.tally.outcomes == {"succeeded": 2, "failed": 1, "cancelled": 1}
        assert [job(number) in file.done for number in range(5)] == [True, True, True, True, False]
        assert not file.done.contains(job(4))
    assert path.read_bytes() == b"".join(line(number, outcome) for number, outcome in enumerate(outcomes))
    assert again.synced_length == path.stat().st_size


def test_a_job_gets_its_line_once_however_often_it_is_appended(path, out):
    assert out.append([line(1), line(1, "failed")]) == 1
    assert out.append([line(1)]) == 0
    out.sync()
    assert out.append([line(1), line(2)]) == 1
    out.close()
    assert path.read_bytes() == line(1) + line(2)


@pytest.mark.parametrize("wrong", [b"", b"{}\n", line(1)[:-1], line(1) + line(2), line(1) + b"\n", b"\n" + line(1)])
def test_what_is_not_one_line_of_ours_is_never_written(path, out, wrong):
    with pytest.raises(ValueError, match="not an output line"):
        out.append([line(0), wrong])
    out.append([line(0)])
    out.close()
    assert path.read_bytes() == line(0)


class Crashes(RuleBasedStateMachine):
    """A run that appends, syncs and is killed: a kill keeps what is synced and any part of what is not."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "out.jsonl"
        self.out = OutputFile.open(self.path)
        self.lines = []  # what the file must hold
        self.synced = 0  # so many of them for certain
        self.next = 0

    @rule(texts=st.lists(st.text(max_size=5), max_size=4), again=st.booleans())
    def append(self, texts, again):
        fresh = [line(self.next + i, text=text) for i, text in enumerate(texts)]
        self.next += len(fresh)
        repeated = self.lines[:3] if again else []
        assert self.out.append(repeated + fresh) == len(fresh)
        self.lines += fresh

    @rule()
    def sync(self):
        self.out.sync()
        self.synced = len(self.lines)
        assert self.out.synced_length == sum(map(len, self.lines))

    @rule(data=st.data(), hole=st.booleans())
    def kill(self, data, hole):
        content = b"".join(self.lines)
        certain = sum(map(len, self.lines[: self.synced]))
        cut = data.draw(st.integers(certain, len(content)))
        start = data.draw(st.integers(certain, cut)) if hole and self.synced else cut
        torn = content[:start] + bytes(cut - start)  # lost power can leave zeros
        os.close(self.out._fd)  # as a kill does: no sync, no farewell
        self.path.write_bytes(torn)
        whole = torn.split(b"\0")[0]
        self.lines = [part + b"\n" for part in whole.split(b"\n")[:-1]]
        assert len(self.lines) >= self.synced
        self.out = OutputFile.open(self.path)
        self.synced = len(self.lines)
        assert self.path.read_bytes() == b"".join(self.lines)

    @rule(data=st.data())
    def disk_fills(self, data):
        room = data.draw(st.integers(0, len(line(self.next)) - 1))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", write_until_full(room))
            with pytest.raises(DiskFullError):
                self.out.append([line(self.next)])
        self.lines = self.lines[: self.synced]
        assert self.path.read_bytes() == b"".join(self.lines)
        assert len(self.out.done) == len(self.lines)
        self.out.close()
        self.out = OutputFile.open(self.path)

    @rule(data=st.data())
    def take_out(self, data):
        dropped = data.draw(st.sets(st.integers(0, max(self.next, 1))))
        self.out.rewrite_without([job(number) for number in dropped])
        self.lines = [kept for kept in self.lines if number_of(kept) not in dropped]
        self.synced = len(self.lines)
        assert self.path.read_bytes() == b"".join(self.lines)

    @rule(data=st.data())
    def put_in_order(self, data):
        wanted = data.draw(st.permutations(range(self.next)))
        self.out.put_in_order([job(number) for number in wanted])
        self.lines.sort(key=lambda kept: wanted.index(number_of(kept)))
        self.synced = len(self.lines)
        assert self.path.read_bytes() == b"".join(self.lines)

    @rule(data=st.data())
    def kill_while_rewriting(self, data):
        self.sync()
        content = b"".join(self.lines)
        beside = self.path.with_name(f".{self.path.name}.rewrite.tmp")
        beside.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        os.close(self.out._fd)
        self.out = OutputFile.open(self.path)
        assert self.path.read_bytes() == content

    @invariant()
    def nothing_is_left_beside_it(self):
        assert list(self.path.parent.iterdir()) == [self.path]

    @invariant()
    def ids_and_money_match_the_lines(self):
        numbers = [number_of(kept) for kept in self.lines]
        assert self.out.lines == len(numbers)
        assert self.out.spent_nusd == sum(numbers)
        assert [number for number in range(self.next) if job(number) in self.out.done] == sorted(numbers)

    def teardown(self):
        self.out.close()
        self.folder.cleanup()


def number_of(written):
    return json.loads(written)["farebox"]["cost_nusd"]


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def write_until_full(room):
    write = os.write

    def limited(fd, content):
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = write(fd, bytes(content)[: min(room, 7)])  # in small pieces, as a system may
        room -= done
        return done

    return limited


@pytest.mark.parametrize("kept", [0, 1])
def test_a_write_torn_at_any_byte_leaves_the_complete_lines(path, kept):
    first, second = line(1), line(2)
    content = first * kept + second
    for cut in range(len(first) * kept, len(content)):
        path.write_bytes(content[:cut])
        with OutputFile.open(path) as file:
            assert file.lines == kept
            file.append([second])
        assert path.read_bytes() == content


def test_what_a_killed_rewrite_left_beside_it_is_removed(path):
    path.write_bytes(line(1))
    beside = path.with_name(f".{path.name}.rewrite.tmp")
    beside.write_bytes(line(1)[:50])
    with OutputFile.open(path) as file:
        assert not beside.exists()
        assert file.put_in_order([job(1)]) is False
    assert path.read_bytes() == line(1)


def test_lost_power_that_left_zeros_between_lines_is_not_guessed_at(path):
    path.write_bytes(line(1) + b"\0" * 50 + line(2)[50:] + line(3))
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"out\.jsonl:2: .*Delete that line"):
        OutputFile.open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("tail", [b"\0" * 9, b"\0" * 9 + b"\n", b"\0" * 9 + b'half"}}\n', b"\0\n\n\0\n" + PREFIX])
def test_lost_power_that_left_zeros_at_the_end_is_cut(path, tail):
    path.write_bytes(line(1) + tail)
    with OutputFile.open(path) as file:
        file.append([line(2)])
    assert path.read_bytes() == line(1) + line(2)


def test_a_line_that_is_not_ours_among_ours_is_never_cut_with_what_follows(path):
    before = line(1) + b'{"mine": false}\n' + line(2)
    path.write_bytes(before)
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"out\.jsonl:2"):
            OutputFile.open(path, overwrite=overwrite)
    assert path.read_bytes() == before


def test_blank_lines_do_no_harm(path):
    path.write_bytes(b"\n" + line(1) + b"\r\n\n" + line(2))
    assert reopened(path).lines == 2


FOREIGN = [
    b'{"prompt":"x"}\n',
    b"notes\n",
    b"notes",
    b'{"id":"batch_req_1","custom_id":"a","response":null,"error":null}\n',
    b'{"id":"other',
    b"\0" * 100,
    b"\n\nnotes\n" + line(1),
]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_that_is_not_ours_is_refused_untouched_and_replaced_only_when_asked(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not written by Farebox.*--overwrite"):
        OutputFile.open(path)
    assert path.read_bytes() == content
    with OutputFile.open(path, overwrite=True) as file:
        file.append([line(1)])
    assert path.read_bytes() == line(1)


def test_overwrite_keeps_answers_of_ours(path, out):
    out.append([line(1)])
    out.close()
    assert OutputFile.open(path, overwrite=True).close() is None
    assert path.read_bytes() == line(1)


def test_two_runs_cannot_write_one_file(path, out):
    out.append([line(1)])
    with pytest.raises(InputError, match="another run is writing"):
        OutputFile.open(path)
    out.rewrite_without([job(1)])
    with pytest.raises(InputError, match="another run is writing"):
        OutputFile.open(path)
    out.close()
    assert reopened(path).lines == 0


def test_a_run_that_waited_on_a_file_whose_name_was_taken_over_opens_the_new_one(path, monkeypatch):
    path.write_bytes(line(1))
    lock = fcntl.flock

    def overtaken(fd, how):
        monkeypatch.setattr(fcntl, "flock", lock)
        lock(fd, how)
        path.with_name("new").write_bytes(line(2) + line(3))
        path.with_name("new").replace(path)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    with OutputFile.open(path) as file:
        assert file.lines == 2
        file.append([line(4)])
    assert path.read_bytes() == line(2) + line(3) + line(4)


def test_a_rewrite_keeps_the_rest_and_its_rights(path, out):
    path.chmod(0o640)
    out.append([line(number) for number in range(6)])
    assert out.rewrite_without([job(1), job(4), job(99)]) == 2
    assert (out.lines, out.spent_nusd, job(4) in out.done) == (4, 0 + 2 + 3 + 5, False)
    assert path.stat().st_mode & 0o777 == 0o640
    out.append([line(4)])
    out.close()
    assert path.read_bytes() == b"".join(line(number) for number in (0, 2, 3, 5, 4))
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_rewrite_that_fails_changes_nothing(path, out, monkeypatch, step):
    out.append([line(1), line(2)])
    out.sync()
    with monkeypatch.context() as patch:
        patch.setattr(step, failing(errno.ENOSPC))
        with pytest.raises(DiskFullError):
            out.rewrite_without([job(1)])
    assert list(path.parent.iterdir()) == [path]
    assert out.lines == 2
    out.append([line(3)])
    out.close()
    assert path.read_bytes() == line(1) + line(2) + line(3)


def failing(number):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskFullError), (errno.EDQUOT, DiskFullError)])
def test_a_full_disk_cuts_back_to_what_is_synced_and_says_what_to_do(path, out, monkeypatch, number, kind):
    out.append([line(1)])
    out.sync()
    out.append([line(2)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(number))
        with pytest.raises(kind, match=r"out\.jsonl.*Free space, and run the same command again: nothing is lost"):
            out.sync()
    assert path.read_bytes() == line(1)
    assert (out.lines, out.spent_nusd, job(2) in out.done, out.synced_length) == (1, 1, False, len(line(1)))


def test_a_flush_leaves_the_tables_to_the_thread_that_is_asked(out, monkeypatch):
    out.append([line(1)])
    with monkeypatch.context() as patch:
        patch.setattr(out.done, "keep", failing(errno.EIO))
        out.flush()
    assert out.synced_length == len(line(1))
    assert job(1) in out.done
    out.keep()
    assert out.done.contains(job(1))
    assert out.append([line(1)]) == 0


def test_after_a_failed_sync_nothing_more_is_taken(path, out, monkeypatch):
    with monkeypatch.context() as patch:
        out.append([line(1)])
        patch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(OutputError, match=r"\(EIO\)") as failed:
            out.sync()
    assert not isinstance(failed.value, DiskFullError)
    assert failed.value.path == path
    for act in (lambda: out.append([line(2)]), out.sync):
        with pytest.raises(OutputError, match="failed earlier"):
            act()
    out.close()
    assert path.read_bytes() == b""


def test_an_interrupt_in_the_middle_of_a_write_leaves_no_torn_line(path, out, monkeypatch):
    out.append([line(1)])
    out.sync()
    write = os.write

    def interrupted(fd, content):
        write(fd, bytes(content)[:9])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            out.append([line(2)])
    out.close()
    assert path.read_bytes() == line(1)


def test_a_real_file_size_limit_in_a_real_process_leaves_complete_lines(path):
    script = textwrap.dedent("""
        import sys
        from farebox_worker.files import OutputFile, OutputError
        lines = [line.encode() for line in sys.stdin]
        with OutputFile.open(sys.argv[1]) as out:
            try:
                for line in lines:
                    out.append([line])
                    if out.lines % 4 == 0:
                        out.sync()
            except OutputError as error:
                print(out.synced_length, out.lines, error)
    """)
    lines = [line(number) for number in range(40)]
    limit = sum(map(len, lines[:18])) + 33
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        input=b"".join(lines),
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    synced, count, message = done.stdout.decode().split(" ", 2)
    assert "EFBIG" in message
    assert int(count) == 16
    assert path.read_bytes() == b"".join(lines[:16])
    assert int(synced) == path.stat().st_size


def test_a_killed_process_leaves_complete_lines_and_lets_go_of_the_lock(path):
    script = textwrap.dedent("""
        import itertools, sys
        sys.path.insert(0, sys.argv[2])
        from test_output_file import OutputFile, line
        out = OutputFile.open(sys.argv[1])
        for number in itertools.count():
            out.append([line(number, text="x" * 5000)])
            print(flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", script, path, Path(__file__).parent], stdout=subprocess.PIPE)
    for _ in range(50):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    found = reopened(path)
    assert found.lines >= 50
    assert path.read_bytes() == b"".join(line(number, text="x" * 5000) for number in range(found.lines))


def delete(path):
    path.unlink()


def move(path):
    path.rename(path.with_name("moved"))


def replace(path):
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").replace(path)


def append_to(path):
    with path.open("ab") as file:
        file.write(b"mine\n")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("meddle", [delete, move, replace, append_to, empty])
def test_nothing_is_called_synced_in_a_file_that_others_meddled_with(path, out, meddle):
    out.append([line(1)])
    out.sync()
    out.append([line(2)])
    meddle(path)
    with pytest.raises(OutputError, match="something else changed"):
        out.sync()
    assert job(2) not in out.done


def test_what_a_killed_run_left_unsynced_is_synced_before_it_is_believed(path, monkeypatch):
    path.write_bytes(line(1))
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), fsync(fd)))
    reopened(path)
    assert path.stat().st_ino in synced
    assert path.parent.stat().st_ino in synced


def test_the_input_file_a_directory_and_a_device_are_refused(path, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"prompt":"x"}\n')
    path.symlink_to(source)
    with pytest.raises(InputError, match="is the input file"):
        OutputFile.open(path, source=source, overwrite=True)
    assert source.read_bytes() == b'{"prompt":"x"}\n'
    with pytest.raises(InputError, match="is a directory"):
        OutputFile.open(tmp_path)
    with pytest.raises(InputError, match="no regular file"):
        OutputFile.open("/dev/null")
    with pytest.raises(InputError, match=r"no directory.*create it"):
        OutputFile.open(tmp_path / "gone" / "out.jsonl")


def test_a_directory_without_the_right_to_write_is_refused(path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda where, how: where != path.parent)  # root may write everywhere
    with pytest.raises(InputError, match="no right to write"):
        OutputFile.open(path)
    assert not path.exists()


def test_every_line_begins_as_a_torn_one_is_recognised():
    assert line(1).startswith(PREFIX)
