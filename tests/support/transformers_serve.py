"""`transformers serve MODEL --port PORT`, once for each of the ports, and importing once for all.

    python -m support.transformers_serve MODEL PORT [PORT ...]

Prints the processes' ids in one line. They are forked after the imports, each runs the command, and they end with this
process, which waits for them.
"""

import os
import sys


def main() -> None:
    from transformers.cli import serve  # noqa: F401 - imports torch
    from transformers.cli.serving import chat_completion, completion, server  # noqa: F401
    from transformers.cli.transformers import app

    from delta_trl.commands import end_with_parent

    model, *ports = sys.argv[1:]
    children = []
    for port in ports:
        child = os.fork()
        if child == 0:
            end_with_parent()
            sys.argv = ["transformers", "serve", model, "--port", port, "--host", "127.0.0.1", "--device", "cpu"]
            app()
            os._exit(0)
        children.append(child)
    print(*children, flush=True)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
