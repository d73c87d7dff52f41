"""Run a program that the kernel kills when the process that started it dies. Linux only; a script, not a
module.

Usage: `python -I -S _exec_with_parent.py PARENT_PID PROGRAM [ARGUMENT...]`. It asks for the signal and then
becomes the program, so the process id stays the same. Doing this between fork and exec (`preexec_fn`) would
run Python code in the child of a possibly threaded process, which can deadlock.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

parent, program = int(sys.argv[1]), sys.argv[2]
if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
    sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
if os.getppid() != parent:  # the parent died before the kernel was asked
    sys.exit("the starting process is gone")
os.execv(program, sys.argv[2:])
