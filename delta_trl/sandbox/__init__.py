"""Runs programs that nobody trusts: isolated, limited, in milliseconds. Imports neither torch nor TRL. Linux.

>>> from delta_trl.sandbox import Sandbox
>>> Sandbox().run("print(int(input()) + 1)", stdin=b"41").stdout
b'42\\n'
"""

from .jobs import Calls, Limits, Result, SandboxUnavailable
from .pool import Sandbox


__all__ = ["Calls", "Limits", "Result", "Sandbox", "SandboxUnavailable"]
