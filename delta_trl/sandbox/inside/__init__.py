"""What runs in a worker process and in the processes of programs: standard library only, and nothing of this package.

`worker.py` is a plain script that imports the others by their names from its own folder, so that no process in which a
program runs has seen the training process. What a program reports is believed nowhere outside.
"""
