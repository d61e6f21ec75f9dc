"""`client.py EXECUTABLE SOCKET ARGUMENTS`: as `python ARGUMENTS`, in a process that the server at the socket forks."""

import json
import os
import signal
import socket
import sys


FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    executable, address, *arguments = sys.argv[1:]
    command = arguments[1:] if arguments[:1] == ["-u"] else arguments  # as torchrun starts its processes
    if command[:1] != ["-m"] and not (command and command[0].endswith(".py")):
        start_afresh(arguments)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    request = {"executable": executable, "arguments": arguments, "environment": dict(os.environ)}
    request |= {"cwd": os.getcwd(), "umask": umask()}
    content = json.dumps(request).encode()
    # A signal that comes before there is a process to send it to waits for it
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    socket.send_fds(connection, [len(content).to_bytes(8, "big")], [0, 1, 2])
    connection.sendall(content)
    answers = connection.makefile()
    process = int(answers.readline())
    if not process:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        start_afresh(arguments)
    for number in FORWARDED:
        signal.signal(number, lambda number, frame: os.kill(process, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    status = int(answers.readline())
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def start_afresh(arguments: list[str]) -> None:
    os.execv(sys.executable, [sys.executable, *arguments])


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


if __name__ == "__main__":
    main()
