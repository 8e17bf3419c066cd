"""Every command: one line and an exit code for whatever is wrong, an end within seconds when told, nothing lost."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from common.arguments import CommandError, Parser, file, folder, given, run
from common.paths import ROOT
from common.records import append_whole, only_writer, write_atomic
from llm import evaluate, finetune, generate, pretrain, study
from theory import simulate

FULL = os.path.exists("/dev/full")


def script(tmp_path, body: str):
    """A command of its own whose work is `body`; run from the root of the project."""
    path = tmp_path / "command.py"
    path.write_text(
        f"import sys, time, os, signal\nfrom pathlib import Path\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from common import workers, arguments\n"
        "def slow(seconds):\n    time.sleep(seconds)\n    return seconds\n"
        "def die(_):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"def work():\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        "if __name__ == '__main__':\n    sys.exit(arguments.run('command.py', work))\n"
    )
    return [sys.executable, str(path)]


def ignoring_nothing():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(command, **options):
    """Start in a group of its own, as a terminal would."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=ignoring_nothing,
        **options,
    )


def stop(process, to: str, number: int, times: int = 1) -> tuple[float, str]:
    """Send a signal to the process or to its whole group; seconds until its end, and what it said."""
    children = psutil.Process(process.pid).children(recursive=True)
    began = time.monotonic()
    for _ in range(times):
        (os.killpg if to == "group" else os.kill)(process.pid, number)
        time.sleep(0.3)
    _, error = process.communicate(timeout=60)
    seconds = time.monotonic() - began
    assert not psutil.wait_procs(children, timeout=3)[1]
    return seconds, error


WAYS = [
    ("group", signal.SIGINT, 2),
    ("group", signal.SIGINT, 1),
    ("process", signal.SIGINT, 1),
    ("process", signal.SIGTERM, 1),
    ("process", signal.SIGTERM, 3),
]
WORKS = {
    "workers": "with workers.pool(2) as pool:\n    list(pool.map(slow, [0, 0]))\n    print('go', flush=True)\n"
    "    list(pool.map(slow, [60] * 8))",
    "starting workers": "with workers.pool(2) as pool:\n    print('go', flush=True)\n"
    "    list(pool.map(slow, [60] * 8))",
    "alone": "print('go', flush=True)\ntime.sleep(60)",
    "swallowing": "print('go', flush=True)\nfor _ in range(60):\n    try:\n        time.sleep(1)\n"
    "    except BaseException:\n        pass",
}


@pytest.mark.parametrize(("to", "number", "times"), WAYS)
@pytest.mark.parametrize("work", WORKS)
def test_a_signal_ends_a_command_and_its_workers(work, to, number, times, tmp_path):
    process = start(script(tmp_path, WORKS[work]))
    assert process.stdout.readline() == "go\n"
    seconds, error = stop(process, to, number, times)
    assert seconds < 7  # 5, and a busy machine
    assert error == "command.py: stopped; the same command resumes\n"
    assert process.returncode == 128 + number or work == "swallowing"


def test_a_worker_killed_by_the_system_is_one_line(tmp_path):
    body = "with workers.pool(2) as pool:\n    list(pool.map(die, range(4)))"
    done = subprocess.run(script(tmp_path, body), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    line = "command.py: error: the system killed a worker, perhaps for its memory; the same command resumes\n"
    assert done.stderr == line


@pytest.mark.parametrize("lines", [1, 100_000])
@pytest.mark.parametrize("how", ["full", "closed", "pipe"])
def test_a_lost_output_is_one_line_and_code_1(how, lines, tmp_path):
    body = f"Path({str(tmp_path / 'saved')!r}).write_text('saved')\nfor n in range({lines}):\n    print('row', n)"
    command = script(tmp_path, body)
    if how == "full" and not FULL:
        pytest.skip("needs /dev/full")
    ends = {"full": "> /dev/full", "closed": ">&-", "pipe": "| true"}[how]
    words = " ".join(f"'{word}'" for word in command)
    # Waiting lets `true` end first, so that the pipe is surely broken.
    text = f"(sleep 0.5; {words}; echo code $? >&2) {ends}" if how == "pipe" else f"{words} {ends}; echo code $? >&2"
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=60)
    error, code = done.stderr.splitlines()
    assert code == "code 1"
    assert error.startswith("command.py: error: the standard output was lost (")
    assert (tmp_path / "saved").read_text() == "saved"


@pytest.mark.parametrize(
    ("error", "code", "told"), [("KeyboardInterrupt", -signal.SIGINT, False), ("KeyError", 1, True)]
)
def test_an_interrupt_while_modules_load_leaves_no_traceback(error, code, told):
    """As when Ctrl-C comes before `run`; a defect keeps its traceback."""
    script = f"import common.arguments; raise {error}"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, preexec_fn=default)
    assert (done.returncode, "Traceback" in done.stderr, bool(done.stderr)) == (code, told, told)


def default():
    """A parent may have told to ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.skipif(not FULL, reason="needs /dev/full")
@pytest.mark.parametrize("name", ["simulate", "study", "finetune", "evaluate", "generate", "pretrain"])
def test_help_that_is_lost_is_one_line_and_code_1(name):
    path = ROOT / ("theory" if name == "simulate" else "llm") / f"{name}.py"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, str(path), "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "the standard output was lost (No space left on device)" in done.stderr


MODEL = ["--model", "somewhere"]
COMMANDS = {
    "simulate": (simulate.main, ["exact-linear"]),
    "study": (study.main, []),
    "finetune": (finetune.main, ["mini-linear"]),
    "pretrain": (pretrain.main, []),
    "evaluate": (evaluate.main, MODEL),
    "generate": (generate.main, [*MODEL, "--file", "somewhere.json"]),
}


@pytest.mark.parametrize("text", ["", " ", "a\0b"])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_takes_an_empty_folder(name, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main, arguments = COMMANDS[name]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--out", text])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "argument --out: must " in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "generate"])
def test_no_command_takes_a_file_for_a_folder(name, capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    main, arguments = COMMANDS[name]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--out", str(tmp_path / "file")])
    assert stopped.value.code == 2
    assert "must be a folder that can be written; " in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("option", ["--model", "--adapter"])
@pytest.mark.parametrize("main", [evaluate.main, generate.main])
def test_an_empty_model_or_adapter_is_none(option, main, capsys):
    with pytest.raises(SystemExit):
        main([*MODEL, option, ""])
    assert "must not be empty" in capsys.readouterr().err


@pytest.mark.skipif(not FULL, reason="needs /dev/full")
def test_a_mistake_before_a_lost_output_is_the_mistake(tmp_path):
    with open("/dev/full", "w") as full:
        command = script(tmp_path, "print('row')\nraise ValueError('mend this')")
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=buffered)
    assert (done.returncode, done.stderr) == (2, "command.py: error: mend this\n")


def test_types_of_options(tmp_path):
    parser = Parser(prog="x")
    parser.add_argument("--out", type=folder)
    parser.add_argument("--file", type=file)
    parser.add_argument("--name", type=given)
    found = parser.parse_args(["--out", str(tmp_path / "new"), "--file", ".", "--name", "a b"])
    assert (found.out, found.name) == (tmp_path / "new", "a b")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (CommandError("do\nthis"), "x: error: do this"),
        (PermissionError(13, "Permission denied", "a/b"), "x: error: cannot use a/b: Permission denied"),
        (MemoryError(), "x: error: out of memory; buy some"),
        (ValueError(), "x: error: ValueError"),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, line, capsys):
    def work():
        raise error

    assert run("x", work, memory="buy some") == 2
    assert capsys.readouterr().err == line + "\n"


def test_a_defect_keeps_its_traceback():
    def work():
        raise RuntimeError("a defect")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="a defect"):
        run("x", work)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_folder_has_one_writer(tmp_path):
    body = f"from common.records import only_writer\nwith only_writer({str(tmp_path)!r}):\n    print('go', flush=True)"
    with only_writer(tmp_path):
        done = subprocess.run(script(tmp_path, body), capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert "another process is writing in " in done.stderr
        assert done.stdout == ""
    assert subprocess.run(script(tmp_path, body), capture_output=True, text=True, timeout=60).stdout == "go\n"


@pytest.mark.skipif(not FULL, reason="needs /dev/full")
def test_full_disks_and_read_only_folders_name_the_file(tmp_path):
    with pytest.raises(OSError, match=r"cannot write /dev/full: No space left on device"):
        append_whole("/dev/full", b"row\n")
    if os.geteuid() == 0:
        return  # root writes everywhere
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"cannot write .*a\.json: Permission denied"):
        write_atomic(tmp_path / "a.json", json.dumps({}))
