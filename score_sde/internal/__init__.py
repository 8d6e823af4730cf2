"""Internal code that any module may use: pytrees of dataclasses, broadcasting, files, guarded readers of archives."""
