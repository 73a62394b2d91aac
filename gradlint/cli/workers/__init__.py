"""User code works in a process of its own for each target, so that every end of such a process can be reported.

Three processes take part. The one that the user started reads the options and writes the report; no user code runs in
it. It starts a supervisor, which starts a worker for each target, one after the other. User code can end or spoil its
worker alone: by `os._exit`, a crash in C, an endless loop, too much memory, a patched function. The supervisor ends
what the worker leaves behind, and ends itself with the process that started it.

If there are several targets, the supervisor imports torch once, and the workers are forks of that process. It also
imports the libraries that a worker imported, for the workers after it.
"""
