"""Generated code, run in a child process that can compute and nothing else.

The child has no environment, no site packages, an empty working folder, and limits on processor time, memory, files
and processes. Where the system allows it, it has no network of its own either. Inside it an audit hook ends the process
at the first attempt to open a file for writing, use a socket, start a process or load native code. A kernel boundary
this is not: it is meant for the mistakes of a small model, not for an attacker. In doubt run training in a container.
"""

import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from activations.errors import InputError

_CHILD = r"""
import json, os, sys
def confine(seconds, memory):
    import resource
    def limit(what, value):
        if hasattr(resource, what):
            resource.setrlimit(getattr(resource, what), (value, value))
    if hasattr(os, "unshare"):
        try:
            os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNET)
        except OSError:
            pass
    limit("RLIMIT_CPU", seconds)
    limit("RLIMIT_AS", memory)
    limit("RLIMIT_FSIZE", 65536)  # of the one file that is open: what the child says in the end
    limit("RLIMIT_NPROC", 0)
    limit("RLIMIT_CORE", 0)
    limit("RLIMIT_NOFILE", 16)
def guard():
    forbidden = ("socket.", "subprocess.", "ctypes.", "os.", "shutil.", "pty.", "signal.pthread_kill", "ftplib.",
                 "urllib.", "http.", "mmap.", "sqlite3.", "winreg.", "fcntl.", "syslog.", "resource.")
    allowed = ("os.listdir", "os.scandir")
    native = ("ctypes", "_ctypes", "socket", "_socket", "subprocess", "_posixsubprocess", "multiprocessing",
              "_multiprocessing", "signal", "faulthandler")
    def hook(event, args):
        if event == "open":
            mode, flags = args[1], args[2] or 0
            if (isinstance(mode, str) and set(mode) & set("wax+")) or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                os._exit(101)
        elif event == "import":
            if args[0].split(".")[0] in native:
                os._exit(102)
        elif event.startswith(forbidden) and event not in allowed:
            os._exit(103)
    sys.addaudithook(hook)
task = json.loads(sys.stdin.buffer.read())
out = os.dup(1)
os.close(1); os.close(2)
sys.stdin = sys.stdout = sys.stderr = open(os.devnull, "r+")
write, dumps = os.write, json.dumps
confine(task["seconds"], task["memory"])
guard()
space = {"__name__": "generated"}
found = {"ran": False, "passed": []}
try:
    exec(compile(task["code"], "generated", "exec"), space)
    found["ran"] = True
except BaseException:
    pass
for check in task["checks"] if found["ran"] else []:
    try:
        exec(compile(check, "check", "exec"), space)
        found["passed"].append(True)
    except BaseException:
        found["passed"].append(False)
write(out, (task["nonce"] + dumps(found)).encode())
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What generated code did: whether it ran to its end, and which checks then passed."""

    ran: bool
    passed: tuple[bool, ...] = ()


def run_code(code: str, checks: Sequence[str] = (), *, seconds: int = 2, megabytes: int = 512) -> Outcome:
    """Run code, then each check, in a confined child. Whatever goes wrong there reads as not run, not passed.

    Args:
        code: Python source.
        checks: statements that raise where the code is wrong (an `assert`).
        seconds: processor seconds; the wall clock allows three seconds more.
        megabytes: address space of the child.

    Raises:
        InputError: this system has no process limits.
    """
    if sys.platform == "win32":
        raise InputError(
            "generated code runs only where process limits exist", mend="use Linux, or leave the stage out"
        )
    nonce = secrets.token_hex(16)
    task = {"code": code, "checks": list(checks), "nonce": nonce, "seconds": seconds, "memory": megabytes << 20}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            child.communicate(json.dumps(task).encode(), timeout=seconds + 3)
        except subprocess.TimeoutExpired:
            pass
        finally:
            child.kill()
            child.communicate()
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
    if not text.startswith(nonce):
        return Outcome(ran=False, passed=(False,) * len(checks))
    try:
        found = json.loads(text.removeprefix(nonce))
    except ValueError:
        return Outcome(ran=False, passed=(False,) * len(checks))
    passed = tuple(bool(p) for p in found["passed"]) if found["ran"] else (False,) * len(checks)
    return Outcome(ran=bool(found["ran"]), passed=passed)
