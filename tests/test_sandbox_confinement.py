"""What hostile code cannot do in the cpython tier, one property each."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ponderosa.sandbox import Execution, Limits, Sandbox, cpython, tiers_available

pytestmark = pytest.mark.skipif(
    tiers_available()["cpython"] is not None, reason=f"no cpython tier: {tiers_available()['cpython']}"
)
LIMITS = Limits(wall_s=0.4, memory_bytes=128 << 20)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(tiers=("cpython",), limits=LIMITS, workers=1) as pool:
        yield pool


def run(sandbox: Sandbox, code: str) -> Execution:
    return sandbox.execute((), code)


def assert_refused(execution: Execution, error: str = "PermissionError") -> None:
    assert execution.outcome == "error", execution
    assert execution.error is not None
    assert execution.error.startswith(error), execution


def assert_still_works(sandbox: Sandbox) -> None:
    assert run(sandbox, "print(6 * 7)").output == "42\n"


def test_files_outside_the_scratch_folder_cannot_be_read(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("gold")
    assert_refused(run(sandbox, f"open({str(secret)!r}).read()"))
    assert_refused(run(sandbox, "open('/etc/passwd').read()"))


def test_folders_outside_cannot_be_listed(sandbox: Sandbox) -> None:
    assert_refused(run(sandbox, "import os\nos.listdir('/')"))


@pytest.mark.parametrize(
    "attempt",
    [
        "open({path!r}, 'w').write('x')",
        "open({path!r}, 'a').write('x')",
        "import os\nos.truncate({path!r}, 0)",
        "import os\nos.open({path!r}, os.O_RDONLY | os.O_TRUNC)",
        "import os\nos.unlink({path!r})",
        "import os\nos.rename({path!r}, 'taken')",
        "import os\nos.link({path!r}, 'linked')",
        "import os\nos.symlink({path!r}, 'linked')",
        "import os\nos.chmod({path!r}, 0)",
        "import os\nos.chown({path!r}, 1, 1)",
        "import os\nos.utime({path!r})",
        "import os\nos.setxattr({path!r}, 'user.x', b'y')",
        "import os\nos.mkdir({path!r} + '.d')",
    ],
)
def test_files_outside_the_scratch_folder_cannot_be_changed(
    sandbox: Sandbox, tmp_path: Path, attempt: str
) -> None:
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    before = kept.stat()
    assert_refused(run(sandbox, attempt.format(path=str(kept))))
    assert kept.read_text() == "as it was"
    assert (kept.stat().st_mode, kept.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


def test_the_scratch_folder_is_writable_and_empty_for_every_execution(sandbox: Sandbox) -> None:
    write = "open('note', 'w').write('mine')\nprint(open('note').read())"
    assert run(sandbox, write).output == "mine\n"
    assert run(sandbox, "import os\nprint(os.listdir('.'))").output == "[]\n"


def test_no_network(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)"
        assert_refused(run(sandbox, code))
    assert_refused(run(sandbox, "import socket\nsocket.socketpair()"))


@pytest.mark.parametrize(
    "attempt",
    [
        "import os\nos.fork()",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import os\nos.execv('/bin/true', ['true'])",
        "import subprocess\nsubprocess.run(['true'])",
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
    ],
)
def test_no_new_processes(sandbox: Sandbox, attempt: str) -> None:
    assert_refused(run(sandbox, attempt))


def test_no_new_process_through_a_raw_system_call(sandbox: Sandbox) -> None:
    code = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.fork(), ctypes.get_errno())"
    assert run(sandbox, code).output == "-1 1\n"


def test_a_fork_bomb_makes_nothing(sandbox: Sandbox) -> None:
    assert_refused(run(sandbox, "import os\nwhile True:\n    os.fork()"))
    assert_still_works(sandbox)


def test_a_daemon_that_calls_setsid_does_not_survive(sandbox: Sandbox) -> None:
    code = (
        "import os\ntry:\n    pid = os.fork()\nexcept OSError:\n    pid = 0\n"
        "try:\n    os.setsid()\nexcept OSError as error:\n    print(error.errno)\nwhile True:\n    pass"
    )
    execution = run(sandbox, code)
    assert (execution.outcome, execution.output) == ("timeout", "1\n")
    server = sandbox_server(sandbox)
    assert children_of(server) == []


def test_no_threads(sandbox: Sandbox) -> None:
    assert_refused(run(sandbox, "import threading\nthreading.Thread(target=print).start()"), "RuntimeError")


@pytest.mark.parametrize(
    "attempt",
    [
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
        "import os, signal\nos.killpg(0, signal.SIGKILL)",
        "import os, signal\nos.kill(-1, signal.SIGKILL)",
        "import fcntl, os\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
        "import resource, os\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
    ],
)
def test_no_signal_reaches_the_parent(sandbox: Sandbox, attempt: str) -> None:
    server = sandbox_server(sandbox)
    assert_refused(run(sandbox, attempt))
    assert sandbox_server(sandbox) == server


def test_memory_is_limited_beyond_what_the_interpreter_holds(sandbox: Sandbox) -> None:
    assert run(sandbox, "held = bytearray(64 << 20)\nprint(len(held))").outcome == "ok"
    assert run(sandbox, "held = bytearray(200 << 20)").outcome == "memory"
    assert run(sandbox, "held = []\nwhile True:\n    held.append(bytearray(8 << 20))").outcome == "memory"


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE"])
def test_limits_cannot_be_raised_again_even_by_root(sandbox: Sandbox, kind: str) -> None:
    code = f"import resource\nresource.setrlimit(resource.{kind}, (1 << 40, 1 << 40))"
    assert_refused(run(sandbox, code), "ValueError")


def test_an_endless_loop_is_a_timeout(sandbox: Sandbox) -> None:
    execution = run(sandbox, "print('begun')\nwhile True:\n    pass")
    assert (execution.outcome, execution.output) == ("timeout", "begun\n")
    assert execution.ms >= 1000 * LIMITS.wall_s


def test_a_loop_that_catches_everything_is_a_timeout(sandbox: Sandbox) -> None:
    code = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    assert run(sandbox, code).outcome == "timeout"


def test_uninterruptible_c_code_is_a_timeout(sandbox: Sandbox) -> None:
    assert run(sandbox, "10 ** 10 ** 8").outcome == "timeout"


def test_closing_every_descriptor_does_not_stop_the_clock(sandbox: Sandbox) -> None:
    assert run(sandbox, "import os\nos.closerange(0, 64)\nwhile True:\n    pass").outcome == "timeout"


def test_endless_output_is_cut_at_the_limit(sandbox: Sandbox) -> None:
    execution = run(sandbox, "while True:\n    print('x' * 99)")
    assert execution.outcome == "output_limit"
    assert len(execution.output) == LIMITS.max_output_bytes
    assert execution.ms < 1000 * LIMITS.wall_s


def test_output_of_exactly_the_limit_is_kept(sandbox: Sandbox) -> None:
    code = f"print('x' * {LIMITS.max_output_bytes}, end='')"
    assert run(sandbox, code).output == "x" * LIMITS.max_output_bytes


def test_output_cut_inside_a_character_stays_text(sandbox: Sandbox) -> None:
    execution = run(sandbox, "print('x' + 'é' * 4000)")
    assert execution.output == "x" + "é" * 1999


def test_the_disk_cannot_be_filled(sandbox: Sandbox) -> None:
    one_file = run(sandbox, "open('big', 'wb').write(bytes(9 << 20))")
    assert_refused(one_file, "OSError")
    many = "for i in range(10_000):\n    open(f'f{i}', 'wb').write(bytes(4 << 20))"
    assert run(sandbox, many).outcome == "output_limit"
    assert run(sandbox, "import os\nprint(os.listdir('.'))").output == "[]\n"


def test_deep_recursion_ends_with_the_code(sandbox: Sandbox) -> None:
    assert_refused(run(sandbox, "def f():\n    f()\nf()"), "RecursionError")
    deeper = "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f():\n    f()\nf()"
    assert run(sandbox, deeper).outcome in ("crash", "memory", "timeout")
    in_c = "import sys\nsys.setrecursionlimit(10 ** 9)\nx = []\nfor i in range(10 ** 6): x = [x]\nrepr(x)"
    assert run(sandbox, in_c).outcome in ("crash", "memory", "timeout", "error")
    assert_still_works(sandbox)


@pytest.mark.parametrize(
    "path", ["/proc/self/environ", "/proc/1/environ", "/proc/self/mem", "/proc/self/maps"]
)
def test_proc_is_out_of_reach(sandbox: Sandbox, path: str) -> None:
    assert_refused(run(sandbox, f"open({path!r}, 'rb').read()"))


def test_the_environment_of_the_parent_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    with Sandbox(tiers=("cpython",), limits=LIMITS, workers=1) as fresh:
        names = run(fresh, "import os\nprint(sorted(os.environ))").output
    assert "SECRET_TOKEN" not in names
    assert "HOME" not in names
    assert "PATH" not in names


def test_introspection_leads_to_nothing_that_is_not_confined(sandbox: Sandbox) -> None:
    reach_os = (
        "classes = ().__class__.__base__.__subclasses__()\n"
        "wrap = next(c for c in classes if c.__name__ == '_wrap_close')\n"
        "wrap.__init__.__globals__['system']('true')\n"
        "print(wrap.__init__.__globals__['popen']('true'))"
    )
    assert_refused(run(sandbox, reach_os))


def test_the_server_above_the_step_holds_nothing_of_other_executions(sandbox: Sandbox) -> None:
    run(sandbox, "hidden_from_others = 1")
    assert_refused(run(sandbox, "print(hidden_from_others)"), "NameError")


@pytest.mark.parametrize("code", ["import ctypes\nctypes.string_at(0)", "import os\nos.abort()"])
def test_a_native_crash_is_the_codes_own(sandbox: Sandbox, code: str) -> None:
    assert run(sandbox, code).outcome == "crash"
    assert_still_works(sandbox)


def test_ending_the_process_unreported_is_a_crash(sandbox: Sandbox) -> None:
    assert run(sandbox, "import os\nos._exit(0)").outcome == "crash"


def test_printing_our_result_format_is_only_printing(sandbox: Sandbox) -> None:
    frame = '{"nonce": "0", "outcome": "ok", "error": null}'
    code = f"import os\nos.write(1, b'\\0\\0\\0\\x2e' + {frame.encode()!r})\n1 / 0"
    execution = run(sandbox, code)
    assert_refused(execution, "ZeroDivisionError")
    assert execution.output.endswith(frame)


@pytest.mark.parametrize("body", [b"{}", b"[]", b"x", b'{"nonce": "0", "outcome": "ok", "error": null}'])
def test_writing_to_every_descriptor_forges_nothing(sandbox: Sandbox, body: bytes) -> None:
    frame = len(body).to_bytes(4, "big") + body
    code = f"import os\nfor fd in range(3, 32):\n    try: os.write(fd, {frame!r})\n    except OSError: pass\n1 / 0"
    assert run(sandbox, code).outcome == "crash"
    assert_still_works(sandbox)


def test_a_frame_that_announces_gigabytes_is_refused(sandbox: Sandbox) -> None:
    assert run(sandbox, "import os\nos.write(3, b'\\x7f\\xff\\xff\\xff')\n1 / 0").outcome == "crash"


def test_a_step_is_ended_when_its_owner_dies(tmp_path: Path) -> None:
    script = (
        "from ponderosa.sandbox.cpython import ForkServer\nfrom ponderosa.sandbox import Limits\n"
        "server = ForkServer(Limits(wall_s=60))\nserver.run(['1'])\nprint(server.pid, flush=True)\n"
        "server.run(['while True: pass'])"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert owner.stdout is not None
    with owner, owner.stdout:
        server = int(owner.stdout.readline())
        child = wait_for(lambda: children_of(server))[0]
        owner.kill()
        assert wait_for(lambda: not is_running(child))
        assert wait_for(lambda: not is_running(server))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user; one already is")
def test_an_ordinary_user_is_confined_too() -> None:
    become_nobody = (
        "import os, sys\nsys.path.insert(0, sys.argv[1])\nfrom jail.server import serve\n"
        "os.chown(sys.argv[2], 65534, 65534)\nos.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n"
        "serve(sys.argv[2])"
    )
    package = Path(cpython.__file__).parent
    server = cpython.ForkServer(LIMITS, [sys.executable, "-s", "-P", "-c", become_nobody, str(package)])
    try:
        (first,) = server.run(["import os\nprint(os.geteuid())"])
        attempts = ["open('/dev/shm/x', 'w')", "import os\nos.fork()", "import _socket\n_socket.socket()"]
        refused = [server.run([attempt])[0] for attempt in attempts]
    finally:
        server.close()
    assert first.output == "65534\n"
    for execution in refused:
        assert_refused(execution)


def sandbox_server(sandbox: Sandbox) -> int:
    """The process id of the sandbox's one fork server, started if need be."""
    assert_still_works(sandbox)
    (server,) = sandbox._all_servers
    assert server.pid is not None
    return server.pid


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


def test_a_server_killed_from_outside_is_replaced(sandbox: Sandbox) -> None:
    before = sandbox_server(sandbox)
    os.kill(before, signal.SIGKILL)
    assert_still_works(sandbox)
    assert sandbox_server(sandbox) != before
