"""Python processes without the import of torch: a server imports it once and forks per script.

A new interpreter needs about 5 s of CPU time to import torch, transformers and Lightning, and a run
of the tests about 2 s. `WarmPython` starts a server that imports them and waits. For each script
the server forks a keeper, and the keeper forks the process that runs the script as `__main__`, with
its own arguments, environment, working folder and output. The keeper reports the exit status.

All processes of one server share the hash seed of `str`. A test that must not share it starts a new
interpreter.
"""

import array
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time

PRELOADED = (
    "rlora.runs.experiment",
    "rlora.runs.multirun",
    "rlora.runs.predict_cli",
    "rlora.tasks.lexicon",
    "rlora.tasks.data_to_text",
    "rlora.models.random_init",
    "transformers.optimization",
    "transformers.models.bert.modeling_bert",
    "transformers.models.gpt2.modeling_gpt2",
)
LONGEST_REQUEST = 1 << 20  # bytes


class WarmPython:
    """A server of preloaded processes, started at the first use.

    Args:
        socket_path: Path of the Unix socket; the system allows about 100 characters.
        environment: Environment of the server, for libraries that read it during the import.
    """

    def __init__(self, socket_path, environment):
        self.socket_path = str(socket_path)
        self.environment = environment
        self._server = None
        self._starting = threading.Lock()  # tests call `run` in threads

    def run(self, arguments, *, folder, environment, timeout):
        """Run a script to its end; return a `subprocess.CompletedProcess` with all its output.

        Raises:
            subprocess.TimeoutExpired: the script took longer than `timeout` seconds and was killed.
        """
        with self._starting:
            if self._server is None:
                self._server = self._start()
        request = {"arguments": arguments, "folder": str(folder), "environment": environment}
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.socket_path)
            read_end, write_end = os.pipe()
            with open(read_end, "rb", buffering=0) as pipe:
                descriptor = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write_end]))
                connection.sendmsg([json.dumps(request).encode() + b"\n"], [descriptor])
                os.close(write_end)
                replies = connection.makefile()
                process = int(replies.readline())
                output = read_all(pipe, time.monotonic() + timeout)
            if output is None:
                os.kill(process, signal.SIGKILL)
                raise subprocess.TimeoutExpired(arguments, timeout)
            status = os.waitstatus_to_exitcode(int(replies.readline()))
        text = output.decode().replace("\r\n", "\n").replace("\r", "\n")
        return subprocess.CompletedProcess(arguments, status, text)

    def _start(self):
        server = subprocess.Popen(
            [sys.executable, __file__, self.socket_path],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if server.stdout.readline() != b"ready\n":
            raise RuntimeError("the server of preloaded processes failed to start")
        return server

    def close(self):
        """Stop the server, which ends when its standard input is closed."""
        if self._server is not None:
            self._server.communicate()


def read_all(pipe, deadline):
    """Return everything up to the end of a pipe, or None if the end does not come in time."""
    chunks = []
    while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if not (chunk := pipe.read(1 << 16)):
            return b"".join(chunks)
        chunks.append(chunk)
    return None


def serve(socket_path):
    """Fork a keeper for every connection, until standard input is closed.

    Returns:
        In the process that shall run a script, its request; None in the server.
    """
    for name in PRELOADED:
        __import__(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_path)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps the keepers
    os.write(1, b"ready\n")
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if listener not in ready:
            return None
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return keep(connection)
        connection.close()


def keep(connection):
    """Fork the process that runs the script and report its id and exit status.

    Returns:
        The request, in the new process only; the keeper itself exits here.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    data, (descriptor, *_), *_ = socket.recv_fds(connection, LONGEST_REQUEST, 1)
    while not data.endswith(b"\n"):
        data += connection.recv(LONGEST_REQUEST)
    process = os.fork()
    if process == 0:
        connection.close()
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        return json.loads(data)
    os.close(descriptor)  # the pipe ends with the script and its children
    os.close(1)
    connection.send(f"{process}\n".encode())
    connection.send(f"{os.waitpid(process, 0)[1]}\n".encode())
    os._exit(0)


def run_script(request):
    """Run a script as a new interpreter would, up to the normal exit of this process."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    script = os.path.abspath(request["arguments"][0])
    sys.argv = list(request["arguments"])
    sys.path[0] = os.path.dirname(script)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    if request := serve(sys.argv[1]):
        run_script(request)
